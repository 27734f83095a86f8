//! Descriptors of the process: its limit is raised, and shared out before anything is opened, so
//! that neither idle clients nor many segments take them from writes.

use crate::exit::Failure;
use crate::limits::{MIN_SHARED_DESCRIPTORS, PROCESS_DESCRIPTORS, ROLE_DESCRIPTORS};

/// Shares of a gateway: connections of clients.
pub(crate) const GATEWAY_SHARES: u64 = 4;
/// Shares of a master or worker: connections of other roles.
pub(crate) const GRPC_SHARES: u64 = 1;
/// Shares of a storage node: connections of workers, and open segments.
pub(crate) const STORAGE_SHARES: u64 = 4;

/// Raises the soft limit of open files (RLIMIT_NOFILE) to the hard limit, and returns the limit
/// that holds then; `None` if it is infinite. Keeps the soft limit if the system refuses.
pub(crate) fn raise() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// Returns the descriptors of one share, of `shares` that all roles of the process have together.
///
/// # Errors
/// [`Failure::Usage`] if the limit does not even suffice for what `roles` roles open at all times.
pub(crate) fn share(limit: Option<u64>, roles: u64, shares: u64) -> Result<u64, Failure> {
    let Some(limit) = limit else {
        return Ok(u64::MAX);
    };
    let own = PROCESS_DESCRIPTORS + ROLE_DESCRIPTORS * roles;
    let needed = own + MIN_SHARED_DESCRIPTORS;
    if limit < needed {
        return Err(Failure::Usage(format!(
            "open files are limited to {limit}, needed are {needed} at least (ulimit -Hn, LimitNOFILE=, --ulimit nofile)"
        )));
    }
    Ok((limit - own) / shares.max(1))
}

/// Bounds a setting by what the limit allows. Returns a warning if that is less.
pub(crate) fn bound<T>(setting: &mut T, variable: &str, allowed: u64) -> Option<String>
where
    T: Copy + TryFrom<u64> + TryInto<u64>,
{
    let wanted: u64 = (*setting).try_into().unwrap_or(u64::MAX);
    let allowed = T::try_from(allowed).ok().filter(|_| wanted > allowed)?;
    *setting = allowed;
    Some(format!(
        "{variable} is {wanted}, but only {} connections are taken at a time: the limit of open files allows no more",
        allowed.try_into().unwrap_or(u64::MAX)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i12_descriptors_are_shared_out_or_the_start_is_refused_in_words() {
        let refused = share(Some(100), 4, 8).unwrap_err();
        let needed = PROCESS_DESCRIPTORS + 4 * ROLE_DESCRIPTORS + MIN_SHARED_DESCRIPTORS;
        let text = refused.to_string();
        assert!(text.contains("limited to 100"), "{text}");
        assert!(text.contains(&format!("needed are {needed}")), "{text}");

        assert_eq!(
            share(Some(needed), 4, 8).unwrap(),
            MIN_SHARED_DESCRIPTORS / 8
        );
        assert_eq!(share(None, 4, 8).unwrap(), u64::MAX);
    }

    #[test]
    fn a_setting_that_the_limit_does_not_allow_is_bounded_and_told() {
        let mut connections = 1_024_usize;
        assert_eq!(bound(&mut connections, "C", 1_024), None);
        let told = bound(&mut connections, "C", 20).unwrap();
        assert_eq!(connections, 20);
        assert!(told.contains("C is 1024"), "{told}");
        assert!(told.contains("only 20"), "{told}");
    }
}
