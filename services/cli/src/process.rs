//! One process around one role or several: runtime, telemetry, signals, the admin port, and the
//! end.
//!
//! ```text
//! running ── signal ──> stop role after role, in order ──> flush telemetry ──> 0
//!         └─ a role ends by itself ──> stop the others ──> flush telemetry ──> 1
//! ```

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use cstore_node::admin::{self, Readiness};
use cstore_node::metrics::Registries;
use cstore_node::shutdown::{on_signal, spawn};
use cstore_node::telemetry::{self, TelemetryConfig};
use cstore_node::{Env, Shutdown, listen};
use futures_util::future::{BoxFuture, select_all};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::exit::{End, Failure};
use crate::limits::{ROLE_THREADS_TIMEOUT, STOP_MARGIN};
use crate::open_files;
use crate::role::is_started_twice;

/// Variable of the port that tells about a process.
pub(crate) const ADMIN_PORT: &str = "CSTORE_ADMIN_PORT";

/// Runs `body` with telemetry and a shutdown that SIGTERM and SIGINT trigger.
pub(crate) fn run<F>(
    name: &str,
    telemetry: &TelemetryConfig,
    body: impl FnOnce(Shutdown) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let files = open_files::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let ended = runtime.block_on(async {
        let telemetry = telemetry::init(name, telemetry).map_err(Failure::usage)?;
        tracing::debug!(files, "open files allowed");
        let shutdown = Shutdown::new();
        let signals = on_signal(shutdown.clone()).map_err(Failure::failed)?;
        let ended = body(shutdown).await;
        // A wrong start is reported on stderr only, and so once.
        if let Err(failure) = &ended
            && failure.end() != End::Usage
        {
            tracing::error!(%failure, "ending");
        }
        telemetry.shutdown().await;
        signals.abort();
        ended
    });
    runtime.shutdown_timeout(ROLE_THREADS_TIMEOUT);
    ended
}

/// A shutdown that comes `delay` after `shutdown`; meanwhile the process says that it leaves, and
/// serves on.
pub(crate) fn after_notice(shutdown: Shutdown, delay: Duration, readiness: Readiness) -> Shutdown {
    let later = Shutdown::new();
    let trigger = later.clone();
    drop(spawn("notice", async move {
        shutdown.triggered().await;
        readiness.leave();
        if !delay.is_zero() {
            tracing::info!(?delay, "not ready any more, draining later");
        }
        tokio::time::sleep(delay).await;
        trigger.trigger();
    }));
    later
}

/// A role at work.
pub(crate) struct Running {
    name: String,
    stop: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Starts a role; `work` ends when `stop` is triggered.
    pub(crate) fn start(
        role: &'static str,
        name: String,
        stop: Shutdown,
        work: BoxFuture<'static, anyhow::Result<()>>,
    ) -> Self {
        let span = telemetry::role_span(role);
        Self {
            name,
            stop,
            task: spawn(role, work.instrument(span)),
        }
    }
}

/// Waits for the wish to end or for a role that fails, then stops all in the order given.
pub(crate) async fn supervise(
    mut roles: Vec<Running>,
    drain: Duration,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let ended = tokio::select! {
        () = shutdown.triggered() => None,
        (ended, at, _) = select_all(roles.iter_mut().map(|role| &mut role.task)) => Some((ended, at)),
    };
    let mut outcome = Ok(());
    if let Some((ended, at)) = ended {
        let role = roles.remove(at);
        outcome = match ended {
            // It may be quicker to end than this task is to notice the wish.
            Ok(Ok(())) if shutdown.is_triggered() => Ok(()),
            Ok(Ok(())) => Err(Failure::Failed(format!("{} ended by itself", role.name))),
            Ok(Err(error)) if is_started_twice(&error) => Err(Failure::Usage(format!(
                "{}; CSTORE_DATA_DIR or --data sets another folder",
                Failure::failed(error.context(role.name))
            ))),
            Ok(Err(error)) => Err(Failure::failed(error.context(role.name))),
            Err(panic) => Err(Failure::failed(
                anyhow::Error::new(panic).context(role.name),
            )),
        };
    }
    for Running {
        name,
        stop,
        mut task,
    } in roles
    {
        stop.trigger();
        let stopped = match tokio::time::timeout(drain + STOP_MARGIN, &mut task).await {
            Ok(Ok(Ok(()))) => continue,
            Ok(Ok(Err(error))) => Failure::failed(error.context(name)),
            Ok(Err(panic)) => Failure::failed(anyhow::Error::new(panic).context(name)),
            Err(_) => {
                task.abort();
                Failure::Failed(format!("{name} did not stop in time"))
            }
        };
        outcome = outcome.and(Err(stopped));
    }
    outcome
}

/// Ports of a start. Those that cannot be opened are reported together.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    mistakes: Vec<String>,
}

impl Ports {
    /// Opens a port. If that fails, notes the mistake and returns `None`.
    pub(crate) async fn bind(
        &mut self,
        variable: &str,
        host: &str,
        port: u16,
    ) -> Option<TcpListener> {
        match listen::bind(variable, host, port).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                self.mistakes.push(Failure::usage(error).to_string());
                None
            }
        }
    }

    /// Checks that all ports are open.
    ///
    /// # Errors
    /// All mistakes, one a line.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(self.failure())
        }
    }

    /// Returns the failure with all mistakes, one a line.
    pub(crate) fn failure(&self) -> Failure {
        Failure::mistakes(&self.mistakes.join("\n"))
    }
}

/// Serves the admin port until `stop`, which comes last.
pub(crate) fn serve_admin(
    listener: TcpListener,
    readiness: Readiness,
    registries: Registries,
    stop: Shutdown,
) {
    if let Ok(addr) = listener.local_addr() {
        tracing::info!(%addr, "admin port is open");
    }
    drop(spawn(
        "admin",
        admin::run(listener, readiness, registries, stop),
    ));
}

/// The configuration in the log: what was set at INFO, what is default at DEBUG.
pub(crate) fn log_configuration(env: &Env<'_>) {
    let mut told = HashSet::new();
    for (variable, value, is_default) in env.shown() {
        // Two readers may need the same variable.
        if !told.insert(variable) {
            continue;
        }
        if *is_default {
            tracing::debug!(variable, value, "configuration, by default");
        } else {
            tracing::info!(variable, value, "configuration");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(
        name: &str,
        shutdown: &Shutdown,
        work: BoxFuture<'static, anyhow::Result<()>>,
    ) -> Running {
        Running::start("test", name.to_owned(), shutdown.child(), work)
    }

    #[tokio::test]
    async fn a_role_that_fails_stops_the_others_and_its_error_is_the_end() {
        let shutdown = Shutdown::new();
        let stop = shutdown.child();
        let (told, heard) = tokio::sync::oneshot::channel();
        let waiting = stop.clone();
        let other = Running::start(
            "test",
            "other".to_owned(),
            stop,
            Box::pin(async move {
                waiting.triggered().await;
                let _ = told.send(());
                Ok(())
            }),
        );
        let failing = role(
            "failing",
            &shutdown,
            Box::pin(async { anyhow::bail!("disk is gone") }),
        );
        let failure = supervise(vec![other, failing], Duration::ZERO, shutdown)
            .await
            .unwrap_err();
        assert_eq!(failure.to_string(), "failing: disk is gone");
        heard.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_notice_comes_first_and_the_stop_after_the_delay() {
        let (shutdown, readiness) = (Shutdown::new(), Readiness::new(&[]));
        let delay = Duration::from_secs(5);
        let later = after_notice(shutdown.clone(), delay, readiness.clone());
        assert!(readiness.is_ready());
        let begun = tokio::time::Instant::now();
        shutdown.trigger();
        readiness.changed().await;
        assert!(readiness.is_leaving() && !later.is_triggered());
        later.triggered().await;
        assert_eq!(begun.elapsed(), delay);
    }

    #[tokio::test]
    async fn a_role_that_ends_by_itself_is_a_failure_and_a_wished_end_is_none() {
        let shutdown = Shutdown::new();
        let ended = role("early", &shutdown, Box::pin(async { Ok(()) }));
        assert!(
            supervise(vec![ended], Duration::ZERO, shutdown)
                .await
                .is_err()
        );
        let shutdown = Shutdown::new();
        let (stop, wished) = (shutdown.child(), shutdown.clone());
        let waiting = stop.clone();
        let work = Box::pin(async move {
            waiting.triggered().await;
            Ok(())
        });
        let roles = vec![Running::start("test", "obedient".to_owned(), stop, work)];
        wished.trigger();
        assert!(supervise(roles, Duration::ZERO, shutdown).await.is_ok());
    }
}
