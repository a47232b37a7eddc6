//! Asking workers for their connections: they answer between two batches, and nobody waits for one that does not.

use std::time::{Duration, Instant};

use crossbeam::channel::{TryRecvError, bounded};
use tokio::time::sleep;

use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::server::backend::Ask;
use crate::dataplane::policy::{Answer, Query};

/// How long a worker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// From one look for the answer to the next: workers have no way to wake a task, nor the time for it.
const PAUSE: Duration = Duration::from_millis(1);

/// The answer of a worker, to which `hand` hands a question if it can be asked now.
///
/// # Errors
/// When it does not answer in time.
pub(super) async fn ask(hand: impl Fn(usize, Query) -> bool, ask: Ask) -> Result<Answer, Refusal> {
    let Ask { worker, from, filter, flush, room } = ask;
    let deadline = Instant::now() + PATIENCE;
    let late = || {
        let seconds = PATIENCE.as_secs();
        let text = format!(
            "worker {worker} did not answer within {seconds} s; see `stuck_workers` in `underpass status`"
        );
        Refusal::new(Kind::Busy, text)
    };
    let capacity = room.capacity();
    let mut room = Some(room);
    loop {
        let (reply, answered) = bounded(1);
        // What others ask it may be in the way.
        let room = room.take().unwrap_or_else(|| Vec::with_capacity(capacity));
        if hand(worker, Query { from, filter, flush, room, reply }) {
            return loop {
                match answered.try_recv() {
                    Ok(answer) => break Ok(answer),
                    // It has ended.
                    Err(TryRecvError::Disconnected) => break Err(late()),
                    Err(TryRecvError::Empty) if Instant::now() >= deadline => break Err(late()),
                    Err(TryRecvError::Empty) => sleep(PAUSE).await,
                }
            };
        }
        if Instant::now() >= deadline {
            return Err(late());
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    use crossbeam::channel::bounded;

    use super::{PATIENCE, ask};
    use crate::control::engine::refusal::Kind;
    use crate::control::server::backend::Ask;
    use crate::dataplane::policy::{Answer, Filter, Query};

    fn question() -> Ask {
        Ask { worker: 3, from: 7, filter: Filter::default(), flush: false, room: Vec::with_capacity(9) }
    }

    #[tokio::test]
    async fn a_worker_that_takes_its_time_is_waited_for_and_asked_again_when_others_are_in_the_way() {
        let (ask_it, asked) = bounded::<Query>(1);
        let worker = std::thread::spawn(move || {
            let Query { from, room, reply, .. } = asked.recv().unwrap();
            std::thread::sleep(Duration::from_millis(50));
            assert!(room.capacity() >= 9);
            reply.send(Answer { connections: room, next: Some(from + 1) }).unwrap();
        });
        let tries = Cell::new(0);
        let hand = |worker, query| {
            tries.set(tries.get() + 1);
            assert_eq!(worker, 3);
            tries.get() > 2 && ask_it.try_send(query).is_ok()
        };
        let answer = ask(hand, question()).await.unwrap();
        assert_eq!((answer.next, tries.get()), (Some(8), 3));
        worker.join().unwrap();
    }

    #[tokio::test]
    async fn one_that_says_nothing_is_named() {
        let (kept, _never_read) = bounded::<Query>(1);
        let begin = Instant::now();
        let (silent, full, gone) = tokio::join!(
            ask(|_, query| kept.try_send(query).is_ok(), question()),
            ask(|_, _| false, question()),
            ask(|_, _| true, question()),
        );
        for refused in [silent, full, gone] {
            let refusal = refused.unwrap_err();
            assert_eq!(refusal.kind, Kind::Busy);
            assert!(refusal.text.starts_with("worker 3 did not answer within 2 s"), "{}", refusal.text);
        }
        assert!(begin.elapsed() < 5 * PATIENCE, "{:?}", begin.elapsed());
    }
}
