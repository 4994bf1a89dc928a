//! The child, from its start to the moment when the wait for it is over.

use std::future::pending;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Run;
use super::changes::{Change, Changes};
use crate::cgroup::Cgroup;
use crate::child::{
    self, Child, Command, Confinement, Ended, Identity, OpenFiles, Signals, SpawnError,
};
use crate::cli::Survivors;

/// How often records that nobody was woken for are read.
const TICK: Duration = Duration::from_millis(50);

/// Why the wait for the child is over.
pub(super) enum Finish {
    Child(Ended),
    TimedOut,
    NotStarted(SpawnError),
    Failed(anyhow::Error),
}

impl Run<'_> {
    /// Start the command and see it through.
    pub(super) async fn command(
        &mut self,
        signals: Signals,
        open_files: OpenFiles,
        cgroup: &Cgroup,
        identity: Option<&Identity>,
        confinement: &Confinement,
    ) -> Finish {
        let child = match self.spawn(&signals, open_files, cgroup, identity, confinement) {
            Ok(child) => child,
            Err(finish) => return finish,
        };
        self.own_processes = cgroup.guardian().into_iter().chain([child.pid()]).collect();
        self.init = child.init();
        let signals = match signals.listen().context("cannot wait for signals") {
            Ok(signals) => signals,
            Err(error) => return Finish::Failed(error),
        };
        let limit = self.settings.timeout;
        let with_survivors = self.settings.survivors == Survivors::Wait;
        self.pump_until(async {
            let timed_out = async {
                match limit {
                    Some(limit) => sleep(limit).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                ended = wait(&child, with_survivors.then_some(cgroup)) => ended
                    .context("cannot wait for the command")
                    .map_or_else(Finish::Failed, Finish::Child),
                ended = forward_signals(&signals, &child) => ended
                    .context("cannot forward a signal")
                    .map_or_else(Finish::Failed, |signal| Finish::Child(Ended::Killed(signal))),
                ended = cgroup.unguarded() => Finish::Failed(match ended {
                    Ok(()) => anyhow!("the guardian of the cgroup was killed"),
                    Err(error) => anyhow!(error).context("cannot watch the guardian"),
                }),
                () = timed_out => Finish::TimedOut,
            }
        })
        .await
        .unwrap_or_else(Finish::Failed)
    }

    fn spawn(
        &self,
        signals: &Signals,
        open_files: OpenFiles,
        cgroup: &Cgroup,
        identity: Option<&Identity>,
        confinement: &Confinement,
    ) -> Result<Child, Finish> {
        let masked = child::name_service_sockets().map_err(Finish::Failed)?;
        let command = Command {
            argv: &self.settings.command,
            variables: &self.trace.variables(),
            cgroup: cgroup.as_fd(),
            identity,
            signals: signals.inherited(),
            open_files,
            masked: &masked,
            no_new_privs: self.settings.no_new_privs,
            confinement,
        };
        command.spawn().map_err(Finish::NotStarted)
    }

    /// Enter events until `done` is ready; fails if the proxy does, because then no name
    /// is answered any more.
    pub(super) async fn pump_until<T>(
        &mut self,
        done: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        let mut done = pin!(done);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What is always ready comes last, or nothing else ever would be.
                biased;
                value = &mut done => return Ok(value),
                error = proxy_failure(&mut self.proxy) => return Err(error),
                change = next_change(self.changes.as_mut()) => self.follow(change),
                _ = tick.tick() => {
                    self.books.enter(None);
                    child::reap_orphans(&self.own_processes).context("cannot reap orphans")?;
                }
                entered = self.books.next() => entered?,
            }
        }
    }
}

async fn next_change(changes: Option<&mut Changes>) -> Change {
    match changes {
        Some(changes) => changes.next().await,
        None => pending().await,
    }
}

/// Wait for the command, and for all that it started if there is a cgroup to look at.
async fn wait(child: &Child, survivors: Option<&Cgroup>) -> io::Result<Ended> {
    let ended = child.wait().await?;
    if let Some(cgroup) = survivors {
        cgroup.emptied().await?;
    }
    Ok(ended)
}

/// Pass signals on to the child. When it is gone, and cgfw waits for those who outlived
/// it, a signal is for cgfw itself: return it.
async fn forward_signals(signals: &child::Listener, child: &Child) -> io::Result<Signal> {
    loop {
        let received = signals.next().await?;
        let to_send = (!received.from_terminal).then_some(received.signal);
        if !child.send(to_send)? {
            return Ok(received.signal);
        }
    }
}

/// Why the proxy is dead. It dies once; after that there is nothing to wait for.
async fn proxy_failure(proxy: &mut Option<JoinHandle<io::Result<()>>>) -> anyhow::Error {
    let Some(running) = proxy else {
        return pending().await;
    };
    let reason = match running.await {
        Ok(Ok(())) => anyhow!("it ended by itself"),
        Ok(Err(error)) => anyhow!(error),
        Err(panic) => anyhow!(panic),
    };
    *proxy = None;
    reason.context("the DNS proxy is dead")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_proxy_dies_once() {
        let broken = tokio::spawn(async { Err(io::Error::other("the socket is gone")) });
        let panicked = tokio::spawn(async { panic!("a bug") });
        for (proxy, reason) in [(broken, "the socket is gone"), (panicked, "a bug")] {
            let mut proxy = Some(proxy);
            let error = format!("{:#}", proxy_failure(&mut proxy).await);
            assert!(error.starts_with("the DNS proxy is dead: "), "{error}");
            assert!(error.contains(reason), "{error}");
            let again = tokio::time::timeout(TICK, proxy_failure(&mut proxy)).await;
            assert!(again.is_err());
        }
    }
}
