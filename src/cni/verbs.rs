//! What each verb of CNI does.

use std::path::PathBuf;

use rscni_plugin::cni::Cni;
use rscni_plugin::error::Error;
use rscni_plugin::types::{Args, CNIResult};

use super::conf::{self, Conf};
use super::delegate::Delegate;
use super::gc;
use super::link::Link;
use crate::api::{CniFacts, Endpoint};

/// The code of an attachment that is there already.
const ATTACHED: u32 = 102;
/// The code of an attachment that is not as it was made.
const DIFFERS: u32 = 103;

/// The plugin.
pub(super) struct Underpass;

impl Cni for Underpass {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let conf = Conf::read(args.config())?;
        let mut endpoint = attachment(&args, &conf)?;
        endpoint.check().map_err(Error::InvalidEnvValue)?;
        if conf.records.read(&endpoint.id).is_some_and(|before| !before.addresses.is_empty()) {
            // What cleans up after a failure would take down what works.
            let details = format!("{} has an interface already; DEL comes first", endpoint.id);
            return Err(Error::Custom(ATTACHED, "attached already".to_owned(), details));
        }
        let delegate = Delegate::find(&conf.plugin, args.path())?;
        let link = Link::new(&conf.socket);
        let delegated = conf.delegate(&known(&link, &conf)?)?;
        let keep = |endpoint: &Endpoint| {
            conf.records.write(endpoint).map_err(|error| {
                let directory = conf.records.directory().display();
                Error::IOFailure(format!("cannot keep a record in {directory}: {error}"))
            })
        };
        // Before there is anything to clean up, so that it is found whatever ends this process.
        keep(&endpoint)?;
        let added = delegate.add(&delegated).and_then(|result| {
            endpoint.addresses = result.ips.iter().map(|ip| ip.address.addr()).collect();
            keep(&endpoint)?;
            Ok(result)
        });
        if added.is_err() {
            // The first error is the one that matters; what is left over is found by GC.
            if delegate.order("DEL", &conf.forgotten(), None).is_ok() {
                let _ = conf.records.remove(&endpoint.id);
            }
            return added;
        }
        link.tell(&endpoint);
        added
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        let conf = Conf::read(args.config())?;
        let endpoint = attachment(&args, &conf)?;
        let there = args.netns().is_some_and(|path| path.exists());
        let kept = conf.records.read(&endpoint.id).is_some();
        match Delegate::find(&conf.plugin, args.path()) {
            Ok(delegate) => delegate.order("DEL", &conf.release(), None)?,
            // Where there is nothing to take away, nobody need be able to.
            Err(error) if there || kept => return Err(error),
            Err(_) => {}
        }
        forget(&conf, &endpoint.id)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        let conf = Conf::read(args.config())?;
        let endpoint = attachment(&args, &conf)?;
        let Some(result) = &args.config().prev_result else {
            let details = "prevResult: CHECK needs the result of ADD".to_owned();
            return Err(Error::InvalidNetworkConfig(details));
        };
        let differs = |details: String| {
            Err(Error::Custom(DIFFERS, "the attachment is not as it was made".to_owned(), details))
        };
        let Some(kept) = conf.records.read(&endpoint.id) else {
            let directory = conf.records.directory().display();
            return differs(format!("there is no record of {} in {directory}", endpoint.id));
        };
        let given: Vec<_> = result.ips.iter().map(|ip| ip.address.addr()).collect();
        if let Some(lost) = kept.addresses.iter().find(|address| !given.contains(address)) {
            return differs(format!("{} had {lost} when it was made, and prevResult has not", endpoint.id));
        }
        let mut delegated = conf.delegate(&conf.written).unwrap_or_else(|_| conf.release());
        if let Some(conf) = delegated.as_object_mut() {
            // It compares interfaces with what they were made with.
            conf.remove("mtu");
        }
        Delegate::find(&conf.plugin, args.path())?.order("CHECK", &delegated, None)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        let conf = Conf::read(args.config())?;
        let unavailable = |error: &dyn std::fmt::Display| Error::PluginNotAvailable(error.to_string());
        Delegate::find(&conf.plugin, args.path()).map_err(|error| unavailable(&error))?;
        let facts = Link::new(&conf.socket).facts().map_err(|error| unavailable(&error))?;
        conf.delegate(&facts).map_err(|error| unavailable(&error))?;
        match facts.limited {
            Some(why) => Err(Error::PluginNotAvailableLimitedConnectivity(why)),
            None => Ok(()),
        }
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        let conf = Conf::read(args.config())?;
        let Some(valid) = &args.config().valid_attachments else {
            let details = "cni.dev/valid-attachments: GC needs to know what is valid".to_owned();
            return Err(Error::InvalidNetworkConfig(details));
        };
        let delegate = Delegate::find(&conf.plugin, args.path())?;
        let link = Link::new(&conf.socket);
        gc::collect(&conf, &delegate, valid, |id| conf.records.remove(id).map(|()| link.forget(id)))
    }
}

/// What the daemon knows now; while it is away, what it knew when it wrote the configuration.
fn known(link: &Link, conf: &Conf) -> Result<CniFacts, Error> {
    match link.facts() {
        Ok(facts) => Ok(facts),
        Err(_) if !conf.written.subnets.is_empty() => Ok(conf.written.clone()),
        Err(error) => Err(Error::TryAgainLater(format!(
            "{error}, and the network configuration has no subnets to go by; start the daemon"
        ))),
    }
}

/// The attachment that a call is about.
fn attachment(args: &Args, conf: &Conf) -> Result<Endpoint, Error> {
    let (Some(container_id), Some(ifname)) = (args.container_id(), args.ifname()) else {
        return Err(Error::missing_env(&["CNI_CONTAINERID", "CNI_IFNAME"]));
    };
    let netns = args.netns().map(PathBuf::as_path);
    Ok(conf::endpoint(container_id, ifname, netns, args.args(), conf))
}

/// Nothing is kept of `id` any more, here and at the daemon.
fn forget(conf: &Conf, id: &str) -> Result<(), Error> {
    if Endpoint::is_id(id) {
        conf.records.remove(id).map_err(|error| Error::IOFailure(format!("the record of {id}: {error}")))?;
        Link::new(&conf.socket).forget(id);
    }
    Ok(())
}
