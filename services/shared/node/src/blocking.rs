//! Work that blocks: the disk's, or much of the processor's.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;

/// Does such work on a thread for it. A runtime of one thread, as a simulation is, does it itself:
/// so the order of events there does not hang on other threads.
///
/// # Errors
/// When the work panicked, or the runtime ended before it began.
pub async fn blocking<T, F>(work: F) -> Result<T, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => tokio::task::spawn_blocking(work).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_it_itself() {
        let me = std::thread::current().id();
        assert_eq!(blocking(|| std::thread::current().id()).await.unwrap(), me);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn others_have_a_thread_for_it() {
        let outside = blocking(|| (std::thread::current().id(), Handle::try_current().is_ok()))
            .await
            .unwrap();
        let me = std::thread::current().id();
        assert!(outside.0 != me && outside.1);
        assert!(
            blocking(|| assert!(Handle::try_current().is_err(), "on purpose"))
                .await
                .unwrap_err()
                .is_panic()
        );
    }
}
