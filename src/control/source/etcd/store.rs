//! Requests to etcd, each with a limit of time and an error that says who is to do what.

use std::error::Error as _;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, GetOptions, Identity,
    KeyValue, KvClient, PutOptions, TlsOptions, Txn, TxnOp, WatchClient, WatchOptions, WatchStream,
};
use tokio::time::timeout;

use super::facts::Record;
use crate::config::{Etcd, EtcdTls, EtcdUser};
use crate::control::source::discovered::shown;
use crate::control::source::plain;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long etcd may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A connection that is silent is asked whether it is there, and how long it may take to say so. etcd does not want to
/// be asked more than once in five seconds.
const ALIVE: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(4));
/// Records that are asked for at once.
const PAGE: i64 = 2000;
/// Bytes of the largest answer: a page of the longest values.
const LARGEST: usize = 64 << 20;
/// Bytes of the largest file of a certificate, a key or a password.
const LARGEST_FILE: u64 = 1 << 20;

/// A connection to one member of etcd.
pub(super) struct Store {
    client: Client,
    kv: KvClient,
    watch: WatchClient,
    member: Member,
}

/// Who is asked, by whom.
struct Member {
    endpoint: String,
    prefix: String,
    user: Option<String>,
    /// Whether this node has a certificate of its own.
    has_identity: bool,
    /// Whether it has answered anything.
    has_answered: bool,
}

/// All that is behind the prefix, at one moment.
pub(super) struct Listing {
    pub(super) moment: Moment,
    pub(super) config: Option<String>,
    pub(super) records: Vec<(Vec<u8>, Record)>,
}

/// A revision of a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Moment {
    /// Which etcd.
    pub(super) cluster: u64,
    /// How many changes it has seen.
    pub(super) revision: i64,
}

impl Moment {
    /// Whether what is `now` goes on from here, so that a watch tells of everything in between: otherwise it is another
    /// etcd, or one that was set back.
    pub(super) fn goes_on_at(self, now: Self) -> bool {
        self.cluster == now.cluster && self.revision <= now.revision
    }
}

impl Store {
    /// A connection to the member at `endpoint`, which has let us in.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn connect(settings: &Etcd, endpoint: &str) -> Result<Self, String> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(ALIVE.0, ALIVE.1)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = &settings.tls {
            options = options.with_tls(tls_options(tls)?);
        }
        let user = settings.user.as_ref();
        if let Some(user) = user {
            options = options.with_user(&user.name, password(user)?);
        }
        let member = Member {
            endpoint: endpoint.to_owned(),
            prefix: settings.prefix.clone(),
            user: user.map(|user| user.name.clone()),
            has_identity: settings.tls.as_ref().is_some_and(|tls| tls.identity.is_some()),
            has_answered: false,
        };
        let connected = within(Client::connect([endpoint], Some(options))).await;
        let client = connected.map_err(|error| member.explain(error))?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(LARGEST),
            watch: client.watch_client().max_decoding_message_size(LARGEST),
            client,
            member,
        })
    }

    /// What etcd is and where it has come to.
    ///
    /// # Errors
    /// Why it does not say.
    pub(super) async fn moment(&mut self) -> Result<Moment, String> {
        let key = format!("{}/config", self.member.prefix);
        let request = self.kv.get(key, Some(GetOptions::new().with_keys_only()));
        let answer = within(request).await.map_err(|error| self.member.explain(error))?;
        self.member.has_answered = true;
        Ok(moment(answer.header()))
    }

    /// Everything, at one moment.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(super) async fn list(&mut self) -> Result<Listing, String> {
        let (mut next, end) = (
            format!("{}/subnets/", self.member.prefix).into_bytes(),
            format!("{}/subnets0", self.member.prefix),
        );
        let (mut records, mut at) = (Vec::new(), None::<Moment>);
        loop {
            // Later pages are of the moment of the first.
            let revision = at.map_or(0, |at| at.revision);
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let request = self.kv.get(next.clone(), Some(options));
            let answer = within(request).await.map_err(|error| self.member.explain(error))?;
            at.get_or_insert(moment(answer.header()));
            records.extend(answer.kvs().iter().map(|found| (found.key().to_vec(), record(found))));
            let Some(last) = answer.kvs().last().filter(|_| answer.more()) else { break };
            next = [last.key(), b"\0"].concat();
        }
        let moment = at.unwrap_or(Moment { cluster: 0, revision: 0 });
        let options = GetOptions::new().with_revision(moment.revision);
        let request = self.kv.get(format!("{}/config", self.member.prefix), Some(options));
        let answer = within(request).await.map_err(|error| self.member.explain(error))?;
        let config = answer.kvs().first().map(|found| String::from_utf8_lossy(found.value()).into_owned());
        Ok(Listing { moment, config, records })
    }

    /// What changes after `moment`.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(super) async fn watch(&mut self, moment: Moment) -> Result<WatchStream, String> {
        let options = WatchOptions::new().with_prefix().with_start_revision(moment.revision + 1);
        let request = self.watch.watch(format!("{}/", self.member.prefix), Some(options));
        within(request).await.map_err(|error| self.member.explain(error))
    }

    /// A lease that ends `ttl` seconds after it was kept alive last.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn grant(&mut self, ttl: u32) -> Result<i64, String> {
        let request = self.client.lease_grant(ttl.into(), None);
        let answer = within(request).await.map_err(|error| self.member.explain(error))?;
        Ok(answer.id())
    }

    /// Keeps a lease alive. Returns whether it still was.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) async fn keep_alive(&mut self, lease: i64) -> Result<bool, String> {
        match within(self.client.lease_keep_alive(lease)).await {
            Ok(_) => Ok(true),
            Err(Failed::Error(Error::LeaseKeepAliveError(_))) => Ok(false),
            Err(error) => Err(self.member.explain(error)),
        }
    }

    /// Ends a lease that nothing hangs on. One that is left ends by itself.
    pub(super) async fn revoke(&mut self, lease: i64) {
        if let Err(error) = within(self.client.lease_revoke(lease)).await {
            tracing::debug!("a lease ends by itself: {}", self.member.explain(error));
        }
    }

    /// Makes the record of `key`, below `subnets/`, unless there is one of its IPv4 subnet. Returns whether there was
    /// none.
    ///
    /// # Errors
    /// Why that is not known: the record may be there or not.
    pub(super) async fn make(&mut self, key: &str, value: &str, lease: i64) -> Result<bool, String> {
        let four = key.split_once('&').map_or(key, |(four, _)| four);
        // With any IPv6 subnet behind it.
        let free = Compare::version(self.record(four), CompareOp::Equal, 0).with_prefix();
        let put = TxnOp::put(self.record(key), value, Some(PutOptions::new().with_lease(lease)));
        self.change(Txn::new().when([free]).and_then([put])).await
    }

    /// Writes the record of `key` that was changed last at the revision `modified`; without a lease it is a reservation.
    /// Returns whether it still was as it was then.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) async fn rewrite(
        &mut self,
        key: &str,
        value: &str,
        modified: i64,
        lease: Option<i64>,
    ) -> Result<bool, String> {
        let same = Compare::mod_revision(self.record(key), CompareOp::Equal, modified);
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        self.change(Txn::new().when([same]).and_then([TxnOp::put(self.record(key), value, options)])).await
    }

    /// Deletes the record of `key` that was changed last at the revision `modified`. Returns whether it still was as it
    /// was then.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) async fn delete(&mut self, key: &str, modified: i64) -> Result<bool, String> {
        let same = Compare::mod_revision(self.record(key), CompareOp::Equal, modified);
        let delete = TxnOp::delete(self.record(key), None::<DeleteOptions>);
        self.change(Txn::new().when([same]).and_then([delete])).await
    }

    async fn change(&mut self, change: Txn) -> Result<bool, String> {
        let answer = within(self.kv.txn(change)).await.map_err(|error| self.member.explain(error))?;
        Ok(answer.succeeded())
    }

    fn record(&self, key: &str) -> String {
        format!("{}/subnets/{key}", self.member.prefix)
    }

    /// What an error of the watch is, in words.
    pub(super) fn explain(&self, error: Error) -> String {
        self.member.explain(Failed::Error(error))
    }
}

/// Why a request has no answer.
enum Failed {
    Late,
    Error(Error),
}

/// A request's answer, if it comes in time.
async fn within<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
    match timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(Failed::Error),
        Err(_) => Err(Failed::Late),
    }
}

impl Member {
    /// What is wrong, with what it takes to mend it where that is known.
    fn explain(&self, failed: Failed) -> String {
        let text = match failed {
            Failed::Late => format!("no answer within {} s", ANSWER.as_secs()),
            Failed::Error(Error::GRpcStatus(status)) => {
                let cause = status.source().map(plain).unwrap_or_default();
                let said = shown(status.message());
                match () {
                    () if cause.contains(&said) => cause,
                    () if cause.is_empty() || said.contains(&cause) => said,
                    () => format!("{said}: {cause}"),
                }
            }
            Failed::Error(other) => plain(&other),
        };
        let advice = self.advice(&text.to_lowercase());
        format!("etcd at {}: {text}{advice}", self.endpoint)
    }

    /// The next step after an error that says `text`.
    fn advice(&self, text: &str) -> String {
        let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        // With TLS 1.3 it may close the connection before it has said why.
        let is_shut = self.endpoint.starts_with("https://")
            && !self.has_answered
            && has(&["connection closed", "broken pipe", "reset"]);
        let user = self.user.as_ref().map_or_else(String::new, |user| format!(" {}", shown(user)));
        match () {
            () if has(&["user name is empty"]) => {
                "; etcd wants to know who this is: give [source.etcd.user]".to_owned()
            }
            () if has(&["authentication failed", "invalid user id or password"]) => {
                format!("; the user{user} or the password is wrong: correct [source.etcd.user]")
            }
            () if has(&["authentication is not enabled"]) => {
                "; etcd asks for no user: remove [source.etcd.user], or enable authentication there".to_owned()
            }
            () if has(&["permission denied"]) => {
                let prefix = &self.prefix;
                format!("; allow the user{user} to read and write the keys behind {prefix}/")
            }
            () if has(&["unknownissuer", "badsignature"]) => {
                "; another one than `ca` under [source.etcd.tls] has signed its certificate: correct that".to_owned()
            }
            () if has(&["notvalidforname", "not valid for name"]) => {
                "; its certificate does not name this endpoint: correct `endpoints` under [source.etcd]".to_owned()
            }
            () if has(&["badcertificate", "certificaterequired", "unknownca", "certificateunknown"])
                && self.has_identity =>
            {
                "; etcd does not take this node's certificate: correct `cert` and `key` under [source.etcd.tls]"
                    .to_owned()
            }
            () if self.has_identity && is_shut => {
                "; it closed the connection at once, as one does that does not take this node's certificate: correct \
                 `cert` and `key` under [source.etcd.tls]"
                    .to_owned()
            }
            () if !self.has_identity && (is_shut || has(&["badcertificate", "certificaterequired"])) => {
                "; etcd wants a certificate of this node: give `cert` and `key` under [source.etcd.tls], signed for it"
                    .to_owned()
            }
            () => String::new(),
        }
    }
}

fn tls_options(tls: &EtcdTls) -> Result<TlsOptions, String> {
    let section = "[source.etcd.tls]";
    let options = TlsOptions::new().ca_certificate(Certificate::from_pem(read("ca", section, &tls.ca)?));
    match &tls.identity {
        None => Ok(options),
        Some(own) => {
            let (cert, key) = (read("cert", section, &own.cert)?, read("key", section, &own.key)?);
            Ok(options.identity(Identity::from_pem(cert, key)))
        }
    }
}

/// The first line of the file.
fn password(user: &EtcdUser) -> Result<String, String> {
    let bytes = read("password_file", "[source.etcd.user]", &user.password_file)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("password_file {}: it is no text", user.password_file.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// What is in a file that `key` of a section names: read at each connection, so that it may be replaced.
fn read(key: &str, section: &str, path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LARGEST_FILE).read_to_end(&mut bytes));
    read.map_err(|error| format!("{key} {}: {error}; correct `{key}` under {section}", path.display()))?;
    Ok(bytes)
}

fn moment(header: Option<&etcd_client::ResponseHeader>) -> Moment {
    header.map_or(Moment { cluster: 0, revision: 0 }, |header| Moment {
        cluster: header.cluster_id(),
        revision: header.revision(),
    })
}

/// What a key holds.
pub(super) fn record(found: &KeyValue) -> Record {
    Record {
        value: std::str::from_utf8(found.value()).unwrap_or_default().to_owned(),
        created: found.create_revision(),
        modified: found.mod_revision(),
        lease: found.lease(),
    }
}
