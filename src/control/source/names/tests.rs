//! Names over time: answers, failures and what is asked for when.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{AT_ONCE, Names};
use crate::net::HostName;

fn names(names: &[&str]) -> BTreeSet<HostName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_answer_is_told_and_a_failure_keeps_it() {
    static NOW: Mutex<Option<&str>> = Mutex::new(Some("192.0.2.2"));
    fn lookup(_: &HostName) -> io::Result<Vec<IpAddr>> {
        match *NOW.lock().unwrap() {
            Some(now) => Ok(vec![address(now), address("2001:db8::2"), address(now)]),
            None => Err(io::Error::other("Temporary failure in name resolution")),
        }
    }
    let followed = Names::follow(lookup);
    followed.want(names(&["b.example"]));
    followed.asked().await;
    let name: HostName = "b.example".parse().unwrap();
    let mut answers = followed.known();
    let known = answers.borrow_and_update().answers[&name].clone();
    assert_eq!(known.addresses, [address("192.0.2.2"), address("2001:db8::2")]);
    // From here on time only passes when everything waits.
    tokio::time::pause();
    *NOW.lock().unwrap() = None;
    let begun = Instant::now();
    let failed = answers.wait_for(|known| known.answers[&name].trouble.is_some()).await.unwrap().answers
        [&name]
        .clone();
    assert_eq!(failed.addresses, known.addresses);
    assert_eq!(failed.trouble.as_deref(), Some("Temporary failure in name resolution"));
    assert!(begun.elapsed() >= Duration::from_secs(59), "{:?}", begun.elapsed());
    *NOW.lock().unwrap() = Some("192.0.2.3");
    let failed_at = Instant::now();
    let again = answers.wait_for(|known| known.answers[&name].trouble.is_none()).await.unwrap().answers
        [&name]
        .clone();
    assert_eq!(again.addresses[0], address("192.0.2.3"));
    assert!(failed_at.elapsed() <= Duration::from_secs(16), "{:?}", failed_at.elapsed());
}

#[tokio::test]
async fn a_resolver_that_hangs_holds_up_few() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    static ENDED: AtomicBool = AtomicBool::new(false);
    fn lookup(name: &HostName) -> io::Result<Vec<IpAddr>> {
        ASKED.fetch_add(1, SeqCst);
        while name.as_str().starts_with("slow") && !ENDED.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(vec![address("192.0.2.2")])
    }
    /// Whatever comes of the test, its threads end.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            ENDED.store(true, SeqCst);
        }
    }
    let end = End;
    let followed = Names::follow(lookup);
    let mut all: Vec<String> = (1..AT_ONCE).map(|n| format!("slow{n}")).collect();
    all.extend((0..50).map(|n| format!("good{n}")));
    followed.want(all.iter().map(|name| name.parse().unwrap()).collect());
    let mut answers = followed.known();
    let told = answers.wait_for(|known| known.answers.len() == 50);
    drop(timeout(Duration::from_secs(20), told).await.expect("the others have answers").unwrap());
    // The threads of the slow ones may begin a little later.
    let begun = std::time::Instant::now();
    while ASKED.load(SeqCst) < 50 + AT_ONCE - 1 && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ASKED.load(SeqCst), 50 + AT_ONCE - 1);
    drop(end);
    timeout(Duration::from_secs(20), followed.asked()).await.expect("all have answers");
}

#[tokio::test]
async fn wanting_asks_again() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    fn lookup(_: &HostName) -> io::Result<Vec<IpAddr>> {
        let last = u8::try_from(ASKED.fetch_add(1, SeqCst)).unwrap();
        Ok(vec![IpAddr::from([192, 0, 2, last])])
    }
    let followed = Names::follow(lookup);
    for last in 0..3 {
        followed.want(names(&["b"]));
        followed.asked().await;
        let known = followed.known().borrow().answers[&"b".parse().unwrap()].clone();
        assert_eq!(known.addresses, [IpAddr::from([192, 0, 2, last])]);
    }
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_forgotten() {
    fn lookup(_: &HostName) -> io::Result<Vec<IpAddr>> {
        Ok(vec![address("192.0.2.2")])
    }
    let followed = Names::follow(lookup);
    followed.want(names(&["a", "b"]));
    followed.asked().await;
    followed.want(names(&["b", "c"]));
    followed.asked().await;
    let known = followed.known();
    let known: Vec<String> = known.borrow().answers.keys().map(ToString::to_string).collect();
    assert_eq!(known, ["b", "c"]);
}
