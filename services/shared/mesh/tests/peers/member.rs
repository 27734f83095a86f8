//! A role's life as a member: against a master of the real server stack, over memory, in time that
//! is paused.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cstore_mesh::member::{
    HeartbeatTrigger, Heartbeats, MasterLink, Member, NodeProfile, Occasion, Report, ViewObserver,
    connect_master, follow_view,
};
use cstore_mesh::{BoxIo, ClientOptions, Dial, GrpcServer, MeshMetrics, ServerOptions};
use cstore_node::Shutdown;
use cstore_node::admin::{PartState, Readiness};
use cstore_proto::v1::cluster_server::{Cluster, ClusterServer};
use cstore_proto::{Signer, Verifier, v1};
use cstore_testkit::secret;
use cstore_types::NodeId;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status};

const INTERVAL: Duration = Duration::from_secs(1);

/// How the master behaves; may be changed while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Behaviour {
    #[default]
    Answers,
    Refuses,
    Hangs,
    /// Knows nobody until somebody registers.
    Forgot,
}

#[derive(Debug, Default)]
struct Seen {
    behaviour: Behaviour,
    registrations: Vec<(Instant, v1::RegisterRequest)>,
    heartbeats: Vec<(Instant, v1::HeartbeatRequest)>,
    views: usize,
}

#[derive(Debug, Clone, Default)]
struct FakeMaster(Arc<Mutex<Seen>>);

impl FakeMaster {
    fn set(&self, behaviour: Behaviour) {
        self.0.lock().behaviour = behaviour;
    }

    async fn behaviour(&self) -> Result<Behaviour, Status> {
        let behaviour = self.0.lock().behaviour;
        match behaviour {
            Behaviour::Refuses => Err(Status::unavailable("told to refuse")),
            Behaviour::Hangs => pending().await,
            Behaviour::Answers | Behaviour::Forgot => Ok(behaviour),
        }
    }

    fn n_registrations(&self) -> usize {
        self.0.lock().registrations.len()
    }

    /// The times since the first heartbeat at which the heartbeats came.
    fn beats(&self) -> Vec<Duration> {
        let seen = self.0.lock();
        let since = |(at, _): &(Instant, _)| *at - seen.heartbeats[0].0;
        seen.heartbeats.iter().map(since).collect()
    }

    fn last_beat(&self) -> v1::HeartbeatRequest {
        self.0.lock().heartbeats.last().unwrap().1.clone()
    }
}

#[tonic::async_trait]
impl Cluster for FakeMaster {
    type WatchMapStream = Pin<Box<dyn Stream<Item = Result<v1::ClusterView, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        self.0
            .lock()
            .registrations
            .push((Instant::now(), request.into_inner()));
        if self.behaviour().await? == Behaviour::Forgot {
            self.set(Behaviour::Answers);
        }
        let state = v1::MasterState {
            cluster_uuid: vec![2; 16].into(),
            ..v1::MasterState::default()
        };
        Ok(Response::new(v1::RegisterResponse {
            state: Some(state),
            dedup_key: vec![3; 32].into(),
            heartbeat_ms: u32::try_from(INTERVAL.as_millis()).unwrap(),
            ..v1::RegisterResponse::default()
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        self.0
            .lock()
            .heartbeats
            .push((Instant::now(), request.into_inner()));
        let register_again = self.behaviour().await? == Behaviour::Forgot;
        Ok(Response::new(v1::HeartbeatResponse {
            register_again,
            ..v1::HeartbeatResponse::default()
        }))
    }

    /// Streams one view and ends.
    async fn watch_map(
        &self,
        _: Request<v1::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        self.behaviour().await?;
        self.0.lock().views += 1;
        let views = stream::iter([Ok(v1::ClusterView::default())]);
        Ok(Response::new(Box::pin(views)))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// A running master and a link to it.
struct Setup {
    master: FakeMaster,
    link: MasterLink,
    readiness: Readiness,
    shutdown: Shutdown,
    _serving: JoinSet<()>,
}

impl Setup {
    async fn new(behaviour: Behaviour) -> Self {
        let master = FakeMaster::default();
        master.set(behaviour);
        let (accept, mut accepted) = mpsc::channel::<BoxIo>(4);
        let options = ServerOptions {
            drain: Duration::from_secs(10),
            role: "fake",
            verifier: Verifier::new(&secret()),
            reflection: false,
            metrics: MeshMetrics::default(),
        };
        let server = GrpcServer::new(options).await.unwrap();
        server.health().set_serving(true).await;
        let server = server.add_service(ClusterServer::new(master.clone()));
        let incoming = stream::poll_fn(move |cx| accepted.poll_recv(cx))
            .map(Ok)
            .boxed();
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.serve_over(incoming, pending()).await.unwrap() });

        let dial = Dial::new(move |_| {
            let accept = accept.clone();
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(64 << 10);
                let gone = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                accept.send(Box::new(theirs)).await.map_err(gone)?;
                Ok(Box::new(ours) as BoxIo)
            })
        });
        let signer = Signer::new(&secret(), cstore_proto::Caller::Worker);
        let options = ClientOptions {
            dial,
            ..ClientOptions::new("worker", signer, MeshMetrics::default())
        };
        let link = MasterLink {
            client: connect_master("127.0.0.1:1", &options).unwrap(),
            profile: NodeProfile {
                role: v1::Role::Worker,
                node: NodeId::new("worker-1").unwrap(),
                addr: "127.0.0.1:2".to_owned(),
                failure_domain: String::new(),
            },
            retry_step: Duration::from_millis(250),
        };
        Self {
            master,
            link,
            readiness: Readiness::new(&[]),
            shutdown: Shutdown::new(),
            _serving: serving,
        }
    }

    fn start(&self, member: FakeMember) -> JoinHandle<()> {
        let trigger = member.trigger.clone();
        let beats = Heartbeats::new(
            self.link.clone(),
            INTERVAL,
            self.readiness.clone(),
            trigger,
            member,
        );
        cstore_node::shutdown::spawn("heartbeats", beats.run(self.shutdown.clone()))
    }

    fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }
}

/// What the role has seen and how it behaves.
#[derive(Debug, Default)]
struct Role {
    is_away: bool,
    asks_with_each_answer: bool,
    occasions: Vec<Occasion>,
    answers: usize,
}

#[derive(Debug, Clone, Default)]
struct FakeMember {
    role: Arc<Mutex<Role>>,
    trigger: HeartbeatTrigger,
}

impl Member for FakeMember {
    fn health(&mut self) -> PartState {
        match self.role.lock().is_away {
            true => PartState::NotReady("away".to_owned()),
            false => PartState::Ready,
        }
    }

    fn report(&mut self, occasion: Occasion) -> Report {
        self.role.lock().occasions.push(occasion);
        Report::Worker(v1::WorkerReport::default())
    }

    fn handle_answer(&mut self, _: v1::HeartbeatResponse) {
        let mut role = self.role.lock();
        role.answers += 1;
        if role.asks_with_each_answer {
            self.trigger.request();
        }
    }

    fn farewell(&mut self) -> Option<Report> {
        Some(Report::Worker(v1::WorkerReport {
            leaving: true,
            ..v1::WorkerReport::default()
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn registration_is_retried_until_the_master_answers() {
    let setup = Setup::new(Behaviour::Refuses).await;
    let joining = setup.link.join(None, &setup.readiness, &setup.shutdown);
    let answering = async {
        sleep(Duration::from_secs(10)).await;
        assert!(
            setup.master.n_registrations() > 3,
            "{}",
            setup.master.n_registrations()
        );
        assert!(!setup.is_ready());
        setup.master.set(Behaviour::Answers);
    };
    let (joined, ()) = tokio::join!(joining, answering);
    assert_eq!(joined.unwrap().unwrap().heartbeat, INTERVAL);
    assert!(setup.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_registration_whatever_the_master_does() {
    for behaviour in [Behaviour::Refuses, Behaviour::Hangs] {
        let setup = Setup::new(behaviour).await;
        let stopping = async {
            sleep(Duration::from_secs(3)).await;
            setup.shutdown.trigger();
        };
        let joining = timeout(
            Duration::from_secs(4),
            setup.link.join(None, &setup.readiness, &setup.shutdown),
        );
        let (joined, ()) = tokio::join!(joining, stopping);
        assert!(joined.unwrap().unwrap().is_none(), "{behaviour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_at_the_interval() {
    let setup = Setup::new(Behaviour::Answers).await;
    let _beats = setup.start(FakeMember::default());
    sleep(INTERVAL * 9 + INTERVAL / 2).await;
    let beats = setup.master.beats();
    assert_eq!(beats.len(), 10);
    for (n, beat) in (0..).zip(&beats) {
        let late = beat.saturating_sub(INTERVAL * n);
        assert!(
            *beat >= INTERVAL * n && late < Duration::from_millis(50),
            "{beats:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_that_asks_gets_a_heartbeat_at_once_and_its_ticks_stay() {
    let setup = Setup::new(Behaviour::Answers).await;
    let member = FakeMember::default();
    let _beats = setup.start(member.clone());
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(setup.master.beats().len(), 2);
    member.trigger.request();
    member.trigger.request();
    sleep(Duration::from_millis(20)).await;
    assert_eq!(
        setup.master.beats().len(),
        3,
        "two requests at once are one"
    );
    sleep(Duration::from_secs(1)).await;
    let occasions = member.role.lock().occasions.clone();
    assert_eq!(
        occasions,
        [
            Occasion::Tick,
            Occasion::Tick,
            Occasion::Early,
            Occasion::Tick
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_role_that_asks_with_every_answer_does_not_make_a_busy_loop() {
    let setup = Setup::new(Behaviour::Answers).await;
    let member = FakeMember::default();
    member.role.lock().asks_with_each_answer = true;
    let _beats = setup.start(member.clone());
    sleep(INTERVAL * 2).await;
    let beats = setup.master.beats();
    assert!(
        (150..=202).contains(&beats.len()),
        "{} heartbeats in two seconds",
        beats.len()
    );
    let ticks = member
        .role
        .lock()
        .occasions
        .iter()
        .filter(|occasion| **occasion == Occasion::Tick)
        .count();
    assert!(
        (2..=3).contains(&ticks),
        "early heartbeats do not move the ticks, found {ticks}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_of_readiness_is_told_before_the_next_tick() {
    let setup = Setup::new(Behaviour::Answers).await;
    let member = FakeMember::default();
    let _beats = setup.start(member.clone());
    sleep(Duration::from_millis(1_200)).await;
    assert!(setup.master.last_beat().ready);
    member.role.lock().is_away = true;
    sleep(Duration::from_millis(150)).await;
    let told = setup.master.last_beat();
    assert_eq!(
        (told.ready, told.not_ready_reason.as_str()),
        (false, "away")
    );
    assert_eq!(setup.master.beats().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_master_forgot_registers_again_and_reports_soon() {
    let setup = Setup::new(Behaviour::Answers).await;
    let member = FakeMember::default();
    let _beats = setup.start(member.clone());
    sleep(Duration::from_millis(500)).await;
    setup.master.set(Behaviour::Forgot);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(setup.master.n_registrations(), 1);
    assert_eq!(
        setup.master.beats().len(),
        3,
        "one that was not read, and soon another one"
    );
    assert_eq!(
        member.role.lock().answers,
        2,
        "what the master did not read is not acknowledged"
    );
    assert!(setup.is_ready());
}

#[tokio::test(start_paused = true)]
async fn five_missed_heartbeats_are_a_reason_not_to_be_ready_and_an_answer_ends_it() {
    for behaviour in [Behaviour::Refuses, Behaviour::Hangs] {
        let setup = Setup::new(Behaviour::Answers).await;
        let _beats = setup.start(FakeMember::default());
        sleep(INTERVAL / 2).await;
        assert!(setup.is_ready());
        setup.master.set(behaviour);
        sleep(INTERVAL * 3).await;
        assert!(setup.is_ready(), "{behaviour:?}: a few are no reason");
        // One that hangs takes the five seconds of a call.
        sleep(INTERVAL * 30).await;
        let reasons = setup.readiness.reasons();
        assert!(
            matches!(&reasons[..], [("master", why)] if why.contains("does not answer")),
            "{reasons:?}"
        );
        setup.master.set(Behaviour::Answers);
        sleep(INTERVAL * 7).await;
        assert!(setup.is_ready(), "{behaviour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_at_any_time_ends_the_heartbeats_with_a_farewell() {
    for behaviour in [
        Behaviour::Answers,
        Behaviour::Refuses,
        Behaviour::Hangs,
        Behaviour::Forgot,
    ] {
        for after in [0, 1, 50, 999, 1_000, 1_001, 2_345, 7_000] {
            let setup = Setup::new(behaviour).await;
            let beats = setup.start(FakeMember::default());
            sleep(Duration::from_millis(after)).await;
            setup.shutdown.trigger();
            // The farewell, and nothing else.
            timeout(Duration::from_millis(1_010), beats)
                .await
                .unwrap()
                .unwrap();
            let leaves = setup
                .master
                .last_beat()
                .worker
                .is_some_and(|worker| worker.leaving);
            assert!(leaves, "{behaviour:?} after {after} ms");
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Views(Arc<Mutex<Vec<bool>>>);

impl ViewObserver for Views {
    fn view(&mut self, _: v1::ClusterView) {
        self.0.lock().push(true);
    }

    fn interrupted(&mut self) {
        self.0.lock().push(false);
    }
}

#[tokio::test(start_paused = true)]
async fn the_view_is_followed_again_after_its_end_and_until_the_shutdown() {
    let setup = Setup::new(Behaviour::Answers).await;
    let views = Views::default();
    let follow = follow_view(
        setup.link.client.clone(),
        v1::WatchMapRequest::default(),
        Duration::from_millis(100),
        views.clone(),
        setup.shutdown.clone(),
    );
    let following = cstore_node::shutdown::spawn("view", follow);
    sleep(Duration::from_secs(1)).await;
    assert!(
        views.0.lock().starts_with(&[true, false, true, false]),
        "{:?}",
        views.0.lock()
    );
    let opened = setup.master.0.lock().views;
    assert!(
        (4..=12).contains(&opened),
        "each view begins the back-off anew, found {opened}"
    );

    setup.master.set(Behaviour::Hangs);
    sleep(Duration::from_secs(15)).await;
    assert_eq!(
        views.0.lock().last(),
        Some(&false),
        "a master that hangs is an interruption"
    );
    setup.shutdown.trigger();
    timeout(Duration::from_millis(10), following)
        .await
        .unwrap()
        .unwrap();
}
