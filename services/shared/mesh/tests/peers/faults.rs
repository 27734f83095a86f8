//! Effects of failing peers on their callers: none, as long as one peer works.

use cstore_mesh::Target;
use cstore_proto::v1;
use cstore_testkit::fake::Reply;
use cstore_testkit::{nobody, until};
use cstore_types::ErrorCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;

use crate::peer::{ATTEMPT, Caller, Network, Peer, over_both};

over_both! {
    i11_with_one_of_three_dead_and_one_failing_a_third_every_idempotent_call_succeeds,
    a_peer_that_is_killed_under_load_costs_no_idempotent_call,
    a_peer_that_stops_in_good_order_costs_no_call_at_all,
    i11_a_lost_answer_of_a_call_that_may_not_be_repeated_is_an_error_and_not_a_second_call,
    a_peer_that_accepts_and_never_speaks_is_never_asked,
    when_everything_fails_the_budget_ends_the_retries,
}

async fn i11_with_one_of_three_dead_and_one_failing_a_third_every_idempotent_call_succeeds(
    network: Network,
) {
    let (well, ill) = (Peer::start(&network).await, Peer::start(&network).await);
    let (dead, _held) = nobody();
    let failed = Reply::refuse(ErrorCode::Unavailable, "ill");
    let pattern = (0..10).map(|n| match n {
        0 | 3 | 6 => failed.clone(),
        _ => Reply::Empty,
    });
    ill.master.reply_always::<v1::GetFileRequest>(pattern);
    let caller = Caller::new(
        &network,
        [&well.target(), &ill.target(), &Target::new(dead)],
    );
    let failed = caller.get_files(1_000, 16).await;
    assert!(
        failed.is_empty(),
        "{} of 1,000 failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert_eq!(
        caller.metric(&["mesh_calls_total", "code=\"Ok\""]) as u64,
        1_000
    );
    assert!(
        ill.calls() > 0,
        "the ill one was never asked, so this proves nothing"
    );
    assert!(caller.metric(&["mesh_retries_total"]) >= 1.0);
    assert!(
        caller.metric(&["mesh_ejections_total"]) >= 1.0,
        "the ill one was never left alone"
    );
    assert!(
        well.calls() > 5 * ill.calls(),
        "ejection did not move calls away"
    );
}

async fn a_peer_that_is_killed_under_load_costs_no_idempotent_call(network: Network) {
    let (stays, goes) = (Peer::start(&network).await, Peer::start(&network).await);
    let caller = Caller::new(&network, [&stays.target(), &goes.target()]);
    let kill = async {
        until("calls at both", || goes.calls() > 50 && stays.calls() > 50).await;
        drop(goes);
    };
    let (failed, ()) = tokio::join!(caller.get_files(2_000, 8), kill);
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed.first()
    );
}

async fn a_peer_that_stops_in_good_order_costs_no_call_at_all(network: Network) {
    let (stays, mut goes) = (Peer::start(&network).await, Peer::start(&network).await);
    let caller = Caller::new(&network, [&stays.target(), &goes.target()]);
    let callers = async {
        let mut failed = Vec::new();
        let mut after = 0;
        while after < 200 {
            // Not idempotent: nothing is tried again, so every failure shows.
            if let Err(status) = caller
                .client
                .delete_file(v1::DeleteFileRequest::default())
                .await
            {
                failed.push(status);
            }
            after += u32::from(caller.metric(&["mesh_endpoints", "state=\"Down\""]) >= 1.0);
        }
        failed
    };
    let stop = async {
        until("calls at both", || goes.calls() > 20 && stays.calls() > 20).await;
        goes.stop().await;
    };
    let (failed, ()) = tokio::join!(callers, stop);
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed.first()
    );
}

async fn i11_a_lost_answer_of_a_call_that_may_not_be_repeated_is_an_error_and_not_a_second_call(
    network: Network,
) {
    let peer = Peer::start(&network).await;
    peer.master
        .reply_next::<v1::DeleteFileRequest>([Reply::Hang]);
    peer.master.reply_next::<v1::GetFileRequest>([Reply::Hang]);
    let caller = Caller::new(&network, [&peer.target()]);
    let client = caller.client.clone();
    let mut lost = JoinSet::new();
    lost.spawn(async move { client.delete_file(v1::DeleteFileRequest::default()).await });
    until("the call at the peer", || peer.calls() == 1).await;
    // Longer than an attempt, counted from when the peer has the call.
    tokio::time::sleep(ATTEMPT * 2).await;
    assert!(
        lost.try_join_next().is_none(),
        "the call ended with an attempt"
    );
    assert_eq!(peer.calls(), 1, "it is still the only one");
    // One that may be repeated is, at the next attempt.
    caller
        .client
        .get_file(v1::GetFileRequest::default())
        .await
        .unwrap();
    assert_eq!(peer.master.count::<v1::GetFileRequest>(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nobody_can_be_reached_the_error_says_so_and_why() {
    let network = Network::default();
    let (dead, _held) = nobody();
    let caller = Caller::new(&network, [&Target::new(&dead)]);
    let error = caller
        .client
        .delete_file(v1::DeleteFileRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(
        error.message().contains(&dead) && error.message().contains("refused"),
        "{error}"
    );
}

async fn a_peer_that_accepts_and_never_speaks_is_never_asked(network: Network) {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let well = Peer::start(&network).await;
    let caller = Caller::new(
        &network,
        [
            &well.target(),
            &Target::new(mute.local_addr().unwrap().to_string()),
        ],
    );
    let failed = caller.get_files(200, 8).await;
    assert!(failed.is_empty(), "{:?}", failed.first());
    assert_eq!(
        caller.metric(&["mesh_retries_total"]) as u64,
        0,
        "the gate kept it out"
    );
}

async fn when_everything_fails_the_budget_ends_the_retries(network: Network) {
    let peer = Peer::start(&network).await;
    peer.master
        .reply_to_all(Reply::refuse(ErrorCode::Unavailable, "ill"));
    let caller = Caller::new(&network, [&peer.target()]);
    let failed = caller.get_files(300, 64).await;
    assert_eq!(failed.len(), 300);
    assert!(
        failed
            .iter()
            .all(|status| status.code() == Code::Unavailable)
    );
    assert!(caller.metric(&["mesh_retries_refused_total"]) >= 1.0);
    assert!(
        peer.calls() < 500,
        "{} calls: a storm of retries",
        peer.calls()
    );
}

/// An address that leads to a stranger first, and to the peer from the second connection on.
async fn misled(peer: &Peer) -> (Target, JoinSet<()>) {
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = front.local_addr().unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut next = stranger.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let nothing = tonic::service::Routes::default();
    let serve = tonic::transport::Server::builder().add_routes(nothing);
    tasks.spawn(async move {
        serve
            .serve_with_incoming(TcpListenerStream::new(stranger))
            .await
            .unwrap()
    });
    let peer = peer.addr;
    tasks.spawn(async move {
        let mut pipes = JoinSet::new();
        loop {
            let (mut from, _) = front.accept().await.unwrap();
            let to = std::mem::replace(&mut next, peer);
            pipes.spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (Target::new(addr.to_string()), tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_a_connection_that_leads_to_a_stranger_is_given_up_for_another() {
    let network = Network::default();
    let peer = Peer::start(&network).await;
    let (target, _tasks) = misled(&peer).await;
    let caller = Caller::new(&network, [&target]);
    let failed = caller.get_files(50, 4).await;
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert!(peer.calls() >= 50);
}
