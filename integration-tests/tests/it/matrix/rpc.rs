//! Every RPC × {none, wrong, expired, other role, replayed}.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::grpc::call;
use cstore_proto::{Caller, ClusterSecret, Signer, v1};
use prost::Message;
use tonic::Code;

use super::Tally;
use crate::doors::{addr, end, methods, started};

/// Allowed callers of each method, stated a second time: a change of the program's table must be
/// meant.
const MAY: &[(&str, &str)] = &[
    ("Namespace/GetFile", "gateway operator"),
    ("Namespace/ListFiles", "gateway operator"),
    ("Namespace/DeleteFile", "gateway operator"),
    ("Namespace/RenameFile", "gateway operator"),
    ("Namespace/CopyFile", "gateway operator"),
    ("Namespace/SelectFiles", "gateway operator"),
    ("Namespace/GetUsage", "gateway operator"),
    ("Uploads/BeginUpload", "gateway operator"),
    ("Uploads/CommitUpload", "worker"),
    ("Uploads/AbortUpload", "gateway worker operator"),
    ("Cluster/Register", "worker storage"),
    ("Cluster/Heartbeat", "worker storage"),
    ("Cluster/WatchMap", "gateway worker operator"),
    ("Cluster/ListNodes", "gateway operator"),
    ("Cluster/AcceptDoubt", "operator"),
    ("Cluster/GiveUpStore", "operator"),
    ("Cluster/ExcuseNode", "operator"),
    ("Cluster/ListKept", "operator"),
    ("Cluster/DropKept", "operator"),
    ("Transfer/Upload", "gateway operator"),
    ("Transfer/PutSmall", "gateway operator"),
    ("Transfer/Download", "gateway operator"),
    ("Transfer/GetRecipe", "gateway operator"),
    ("Transfer/Explain", "gateway operator"),
];

fn now() -> i64 {
    i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap()
}

/// Bearers that open nothing, each with its case.
fn unauthenticated(
    secret: &ClusterSecret,
    path: &str,
    allowed: &[Caller],
) -> Vec<(&'static str, Option<String>)> {
    let other = ClusterSecret::generate().unwrap();
    let mut bearers = vec![
        ("none", None),
        ("wrong", Some(String::new())),
        ("wrong", Some("wrong".to_owned())),
    ];
    for caller in allowed {
        let (ours, theirs) = (Signer::new(secret, *caller), Signer::new(&other, *caller));
        bearers.push(("wrong", Some(theirs.bearer(path))));
        bearers.push(("wrong", Some(format!("{}00", ours.bearer(path)))));
        bearers.push(("expired", Some(ours.until(path, now() - 65))));
        // A bearer that a node sends to one method is worth nothing at another.
        if *caller != Caller::Operator {
            bearers.push((
                "replayed",
                Some(ours.bearer("/cstore.v1.Elsewhere/Captured")),
            ));
            bearers.push(("replayed", Some(ours.bearer(&format!("{path}2")))));
        }
    }
    // Somebody who claims a role whose key he has not.
    for caller in Caller::ALL
        .into_iter()
        .filter(|caller| !allowed.contains(caller))
    {
        let own = Signer::new(secret, caller).bearer(path);
        let claimed = own.replacen(caller.as_str(), allowed[0].as_str(), 1);
        bearers.push(("other role", Some(claimed)));
    }
    bearers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_every_rpc_is_open_to_its_callers_and_to_nobody_else() {
    let cluster = started().await;
    let (secret, mut tally) = (cluster.secret(), Tally::default());
    let methods = methods();
    assert!(
        methods.len() >= 17 && methods.len() == MAY.len(),
        "a method has no case: {methods:?}"
    );
    for (service, method) in &methods {
        let (addr, path) = (
            addr(&cluster, service),
            format!("/cstore.v1.{service}/{method}"),
        );
        let case = MAY
            .iter()
            .find(|(name, _)| path.ends_with(&format!(".{name}")));
        let (_, may) = case.unwrap_or_else(|| panic!("{path} has no case"));
        let (allowed, others): (Vec<Caller>, Vec<Caller>) = Caller::ALL
            .into_iter()
            .partition(|caller| may.split(' ').any(|name| name == caller.as_str()));
        for (case, bearer) in unauthenticated(&secret, &path, &allowed) {
            let refused = call(&addr, &path, bearer.as_deref(), Bytes::new())
                .await
                .unwrap_err();
            assert_eq!(
                refused.code(),
                Code::Unauthenticated,
                "{path}, {case}: {refused}"
            );
            assert_eq!(
                refused.message().contains("expired"),
                case == "expired",
                "{path}: {refused}"
            );
            tally.count(case);
        }
        for caller in others {
            let bearer = Signer::new(&secret, caller).bearer(&path);
            let refused = call(&addr, &path, Some(&bearer), Bytes::new())
                .await
                .unwrap_err();
            assert_eq!(
                refused.code(),
                Code::PermissionDenied,
                "{path} by {caller}: {refused}"
            );
            tally.count("other role");
        }
        for caller in allowed {
            let bearer = Signer::new(&secret, caller).bearer(&path);
            if let Err(status) = call(&addr, &path, Some(&bearer), Bytes::new()).await {
                let shut = [
                    Code::Unauthenticated,
                    Code::PermissionDenied,
                    Code::Unimplemented,
                ];
                assert!(
                    !shut.contains(&status.code()),
                    "{path} by {caller}: {status}"
                );
            }
            tally.count("let in");
        }
    }
    // A method that is in no table is open to nobody, an operator included.
    let unknown = "/cstore.v1.Namespace/NotThere";
    let refused = call(
        &cluster.master,
        unknown,
        Some(&cluster.bearer()),
        Bytes::new(),
    )
    .await
    .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    tally.end(
        "RPCs",
        methods.len(),
        &[
            "none",
            "wrong",
            "expired",
            "other role",
            "replayed",
            "let in",
        ],
    );
    end(cluster, &[]).await;
}

async fn as_caller(cluster: &Cluster, caller: Caller, method: &str, message: impl Message) -> Code {
    let path = format!("/cstore.v1.Cluster/{method}");
    let bearer = Signer::new(&cluster.secret(), caller).bearer(&path);
    let answer = call(
        &cluster.master,
        &path,
        Some(&bearer),
        message.encode_to_vec().into(),
    )
    .await;
    answer.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_a_node_cannot_say_that_it_is_of_another_role_or_speak_for_a_node_of_one() {
    let cluster = started().await;
    let report = || {
        Some(v1::StorageReport {
            store_uuid: Bytes::from_static(&[7; 16]),
            ..v1::StorageReport::default()
        })
    };
    let register = |role: v1::Role, id: &str| v1::RegisterRequest {
        role: role.into(),
        node_id: id.to_owned(),
        addr: "127.0.0.1:1".to_owned(),
        storage: if role == v1::Role::Storage {
            report()
        } else {
            None
        },
        ..v1::RegisterRequest::default()
    };
    let beat = |role: v1::Role, id: &str| v1::HeartbeatRequest {
        role: role.into(),
        node_id: id.to_owned(),
        ..v1::HeartbeatRequest::default()
    };
    let denied = Code::PermissionDenied;
    for (caller, own, other, taken) in [
        (
            Caller::Worker,
            v1::Role::Worker,
            v1::Role::Storage,
            "storage-1",
        ),
        (
            Caller::Storage,
            v1::Role::Storage,
            v1::Role::Worker,
            "worker-1",
        ),
    ] {
        assert_eq!(
            as_caller(&cluster, caller, "Register", register(other, "x")).await,
            denied,
            "{caller}"
        );
        assert_eq!(
            as_caller(&cluster, caller, "Heartbeat", beat(other, taken)).await,
            denied,
            "{caller}"
        );
        let node = register(own, taken);
        assert_eq!(
            as_caller(&cluster, caller, "Register", node).await,
            denied,
            "{caller} as {taken}"
        );
    }
    let reporting = v1::HeartbeatRequest {
        storage: report(),
        ..beat(v1::Role::Worker, "worker-1")
    };
    assert_eq!(
        as_caller(&cluster, Caller::Worker, "Heartbeat", reporting).await,
        denied
    );
    // It is asked to register, and the node that it spoke for stays ready.
    assert_eq!(
        as_caller(
            &cluster,
            Caller::Worker,
            "Heartbeat",
            beat(v1::Role::Worker, "storage-1")
        )
        .await,
        Code::Ok
    );
    end(cluster, &[]).await;
}
