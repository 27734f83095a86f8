//! Bearers of the gRPC plane: who calls, until when, and a MAC that only a holder of the cluster
//! secret can make.
//!
//! ```text
//! bearer   caller "." expiry (Unix seconds) "." hex(HMAC-SHA256(key of the caller, label ‖ expiry i64 LE ‖ scope))
//! scope    the path of the call; "*" for an operator, who pastes one bearer into many calls
//! ```
//! A node makes a new bearer for each call, good for a minute on one method. So what is overheard
//! opens one method for two minutes at most, clocks that differ included; TLS is what keeps it from
//! being overheard.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cstore_types::{Caller, ClusterSecret, RpcKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Life of a bearer that a node makes.
const LIFETIME: i64 = 60;
/// Clocks of two nodes may differ by so many seconds.
const SKEW: i64 = 60;

/// Length of an HMAC-SHA256.
const PROOF_BYTES: usize = 32;
/// Capacity for a bearer: caller, expiry and proof need less.
const BEARER_BYTES: usize = 96;

/// Scope of an operator's bearer.
const ANY: &str = "*";

/// Why a bearer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// Not what a signer makes.
    #[error("the bearer in header authorization is not of the form caller.expiry.proof")]
    Unreadable,
    /// Made with another secret, or for another method.
    #[error(
        "the bearer in header authorization was not made for this call by a member of this cluster"
    )]
    Wrong,
    /// Too old.
    #[error("the bearer in header authorization expired {0} s ago; clocks may differ by {SKEW} s")]
    Expired(i64),
    /// Lives longer than a node's bearer can.
    #[error(
        "the bearer in header authorization comes from a clock {0} s ahead; clocks may differ by {SKEW} s"
    )]
    Early(i64),
}

/// Makes the bearers of one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Signer {
    caller: Caller,
    key: RpcKey,
}

impl Signer {
    /// A signer for `caller`.
    pub fn new(secret: &ClusterSecret, caller: Caller) -> Self {
        Self {
            caller,
            key: secret.rpc_key(caller),
        }
    }

    /// A bearer for a call of `path` (`/package.Service/Method`) now.
    pub fn bearer(&self, path: &str) -> String {
        self.until(path, unix_now().saturating_add(LIFETIME))
    }

    /// A bearer that lives for `ttl`: for an operator, who uses it for every method.
    pub fn for_ttl(&self, ttl: Duration) -> String {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        self.until(ANY, unix_now().saturating_add(ttl))
    }

    /// A bearer that is good until `expiry` in Unix seconds.
    pub fn until(&self, path: &str, expiry: i64) -> String {
        let proof = mac(&self.key, self.caller, path, expiry)
            .finalize()
            .into_bytes();
        let mut digits = [0; 2 * PROOF_BYTES];
        let mut bearer = String::with_capacity(BEARER_BYTES);
        // The digits fit, and a write to a string cannot fail.
        let _ = hex::encode_to_slice(proof, &mut digits);
        let _ = write!(bearer, "{}.{expiry}.", self.caller);
        bearer.extend(digits.map(char::from));
        bearer
    }
}

/// Verifier of the bearers of one cluster.
#[derive(Debug, Clone)]
pub struct Verifier([(Caller, RpcKey); 4]);

impl Verifier {
    /// Makes a verifier that knows the bearers of all callers of one cluster.
    pub fn new(secret: &ClusterSecret) -> Self {
        Self(Caller::ALL.map(|caller| (caller, secret.rpc_key(caller))))
    }

    /// Returns the caller that made `bearer`, if it is good for a call of `path`. Compares in
    /// constant time.
    ///
    /// # Errors
    /// [`BearerError`].
    pub fn check(&self, path: &str, bearer: &str) -> Result<Caller, BearerError> {
        self.check_at(path, bearer, unix_now())
    }

    fn check_at(&self, path: &str, bearer: &str, now: i64) -> Result<Caller, BearerError> {
        let mut parts = bearer.splitn(3, '.');
        let caller = parts
            .next()
            .and_then(Caller::from_name)
            .ok_or(BearerError::Unreadable)?;
        let expiry: i64 = parts
            .next()
            .and_then(|text| text.parse().ok())
            .ok_or(BearerError::Unreadable)?;
        let mut proof = [0; PROOF_BYTES];
        parts
            .next()
            .and_then(|text| hex::decode_to_slice(text, &mut proof).ok())
            .ok_or(BearerError::Unreadable)?;
        let (_, key) = self
            .0
            .iter()
            .find(|(known, _)| *known == caller)
            .ok_or(BearerError::Unreadable)?;
        mac(key, caller, path, expiry)
            .verify_slice(&proof)
            .map_err(|_| BearerError::Wrong)?;
        let left = expiry.saturating_sub(now);
        if left < SKEW.saturating_neg() {
            return Err(BearerError::Expired(left.saturating_neg()));
        }
        if caller != Caller::Operator && left > LIFETIME.saturating_add(SKEW) {
            return Err(BearerError::Early(left.saturating_sub(LIFETIME)));
        }
        Ok(caller)
    }
}

fn mac(key: &RpcKey, caller: Caller, path: &str, expiry: i64) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(b"cstore rpc bearer v1");
    mac.update(&expiry.to_le_bytes());
    mac.update(if caller == Caller::Operator {
        ANY.as_bytes()
    } else {
        path.as_bytes()
    });
    mac
}

#[cfg(feature = "simulated")]
thread_local! {
    static CLOCK: std::cell::Cell<Option<fn() -> i64>> = const { std::cell::Cell::new(None) };
}

/// Makes this thread sign and check bearers at the time of `clock`, in Unix seconds. For
/// simulations only: a bearer of the real time would differ between two runs of one seed.
#[cfg(feature = "simulated")]
pub fn set_bearer_clock(clock: fn() -> i64) {
    CLOCK.set(Some(clock));
}

fn unix_now() -> i64 {
    #[cfg(feature = "simulated")]
    if let Some(clock) = CLOCK.get() {
        return clock();
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "/cstore.v1.Namespace/GetFile";
    const DELETE: &str = "/cstore.v1.Namespace/DeleteFile";

    fn secret(text: &str) -> ClusterSecret {
        ClusterSecret::parse(text).unwrap()
    }

    fn ours() -> ClusterSecret {
        secret("0123456789abcdef0123456789abcdef")
    }

    #[test]
    fn i13_a_bearer_tells_its_caller_for_one_method_and_no_other() {
        let verifier = Verifier::new(&ours());
        for caller in Caller::ALL {
            let bearer = Signer::new(&ours(), caller).bearer(GET);
            assert_eq!(verifier.check(GET, &bearer), Ok(caller));
            let elsewhere = verifier.check(DELETE, &bearer);
            let operator = caller == Caller::Operator;
            assert_eq!(
                elsewhere,
                if operator {
                    Ok(caller)
                } else {
                    Err(BearerError::Wrong)
                }
            );
            // One who claims to be somebody else has not that one's key.
            let (_, rest) = bearer.split_once('.').unwrap();
            for other in Caller::ALL.into_iter().filter(|other| *other != caller) {
                assert_eq!(
                    verifier.check(GET, &format!("{other}.{rest}")),
                    Err(BearerError::Wrong)
                );
            }
        }
    }

    #[test]
    fn i13_every_changed_character_of_a_bearer_is_noticed() {
        let verifier = Verifier::new(&ours());
        let bearer = Signer::new(&ours(), Caller::Worker).until(GET, 1_000);
        assert_eq!(verifier.check_at(GET, &bearer, 1_000), Ok(Caller::Worker));
        for at in 0..bearer.len() {
            let mut forged = bearer.clone().into_bytes();
            forged[at] = if forged[at] == b'1' { b'2' } else { b'1' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(verifier.check_at(GET, &forged, 1_000).is_err(), "{forged}");
        }
        let theirs = Signer::new(&secret("abcdef0123456789abcdef0123456789"), Caller::Worker);
        assert_eq!(
            verifier.check(GET, &theirs.bearer(GET)),
            Err(BearerError::Wrong)
        );
        for garbage in [
            "",
            ".",
            "..",
            "worker",
            "worker.1",
            "worker.x.00",
            "master.1.00",
            "worker.1.0g",
        ] {
            assert_eq!(
                verifier.check(GET, garbage),
                Err(BearerError::Unreadable),
                "{garbage:?}"
            );
        }
    }

    #[test]
    fn i13_a_bearer_lives_for_two_minutes_whatever_the_clocks() {
        let verifier = Verifier::new(&ours());
        let node = Signer::new(&ours(), Caller::Gateway).until(GET, 1_000);
        for (now, expected) in [
            (1_060, Ok(Caller::Gateway)),
            (1_061, Err(BearerError::Expired(61))),
            (880, Ok(Caller::Gateway)),
            (879, Err(BearerError::Early(61))),
        ] {
            assert_eq!(verifier.check_at(GET, &node, now), expected, "at {now}");
        }
        let operator = Signer::new(&ours(), Caller::Operator).until(GET, 100_000);
        assert_eq!(
            verifier.check_at(GET, &operator, 1_000),
            Ok(Caller::Operator)
        );
        assert_eq!(
            verifier.check_at(GET, &operator, 100_061),
            Err(BearerError::Expired(61))
        );
    }
}
