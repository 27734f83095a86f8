//! Choice of the peers that are called: those that serve, for as long as discovery names them.

use cstore_mesh::{Class, Endpoints};
use cstore_proto::v1;
use cstore_testkit::fake::Reply;
use cstore_testkit::until;

use crate::peer::{Caller, Network, Peer, over_both};

over_both! {
    a_peer_that_says_not_serving_gets_no_calls_until_it_serves_again,
    calls_follow_discovery_and_prefer_whole_peers,
    load_goes_to_the_peer_that_has_less_to_do,
}

async fn a_peer_that_says_not_serving_gets_no_calls_until_it_serves_again(network: Network) {
    let (one, other) = (Peer::start(&network).await, Peer::start(&network).await);
    let caller = Caller::new(&network, [&one.target(), &other.target()]);
    let down = |caller: &Caller| caller.metric(&["mesh_endpoints", "state=\"Down\""]) as u32;
    let serving = |caller: &Caller| caller.metric(&["mesh_endpoints", "state=\"Serving\""]) as u32;
    until("both to serve", || serving(&caller) == 2).await;
    other.health.set_serving(false).await;
    until("one to be down", || down(&caller) == 1).await;
    let before = other.calls();
    assert!(caller.get_files(200, 8).await.is_empty());
    assert_eq!(other.calls(), before, "a peer that is down was asked");
    other.health.set_serving(true).await;
    until("both to serve again", || serving(&caller) == 2).await;
    assert!(caller.get_files(200, 8).await.is_empty());
    assert!(other.calls() > before);
}

async fn calls_follow_discovery_and_prefer_whole_peers(network: Network) {
    let (one, other) = (Peer::start(&network).await, Peer::start(&network).await);
    let caller = Caller::new(&network, [&one.target()]);
    assert!(caller.get_files(20, 2).await.is_empty());
    let all = [
        (one.target(), Class::Partial),
        (other.target(), Class::Whole),
    ];
    caller.endpoints.send_replace(Endpoints::from(all));
    until("both to serve", || {
        caller.metric(&["mesh_endpoints", "state=\"Serving\""]) as u32 == 2
    })
    .await;
    let before = one.calls();
    assert!(caller.get_files(50, 4).await.is_empty());
    assert_eq!(
        (one.calls(), other.calls()),
        (before, 50),
        "the whole one is preferred"
    );
    caller
        .endpoints
        .send_replace(Endpoints::from([(one.target(), Class::Partial)]));
    until("one to be gone", || {
        caller.metric(&["mesh_endpoints", "state=\"Serving\""]) as u32 == 1
    })
    .await;
    assert!(
        caller.get_files(20, 2).await.is_empty(),
        "one that misses a part is better than none"
    );
    assert_eq!(other.calls(), 50);
}

async fn load_goes_to_the_peer_that_has_less_to_do(network: Network) {
    let (quick, slow) = (Peer::start(&network).await, Peer::start(&network).await);
    // Every tenth call hangs until its time-out: its calls in work pile up.
    let mut pattern = vec![Reply::Empty; 10];
    pattern[0] = Reply::Hang;
    slow.master.reply_always::<v1::GetFileRequest>(pattern);
    let caller = Caller::new(&network, [&quick.target(), &slow.target()]);
    assert!(caller.get_files(400, 16).await.is_empty());
    let (q, s) = (quick.calls(), slow.calls());
    assert!(q > 2 * s, "the quick one had {q} calls, the slow one {s}");
    caller
        .client
        .get_file(v1::GetFileRequest::default())
        .await
        .unwrap();
}
