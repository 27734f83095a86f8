//! A role's life as a member: against a master of the real server stack, over memory, in time that
//! is paused.

use std::sync::Arc;
use std::time::Duration;

use cstore_mesh::member::{
    HeartbeatTrigger, Heartbeats, MasterLink, Member, NodeProfile, Occasion, Report, ViewObserver,
    follow_view,
};
use cstore_node::Shutdown;
use cstore_node::admin::{PartState, Readiness};
use cstore_proto::v1;
use cstore_testkit::INTERVAL;
use cstore_testkit::fake::{FakeMaster, Reply};
use cstore_types::{ErrorCode, NodeId};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How the master behaves; may be changed while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Answers,
    Refuses,
    Hangs,
    /// Knows nobody until somebody registers.
    Forgot,
}

impl Behaviour {
    fn set(self, master: &FakeMaster) {
        master.reply_to_all(match self {
            Self::Answers | Self::Forgot => Reply::Do,
            Self::Refuses => Reply::refuse(ErrorCode::Unavailable, "asked to refuse"),
            Self::Hangs => Reply::Hang,
        });
        master.with(|state| state.forgot = self == Self::Forgot);
    }
}

/// Returns the times of the heartbeats, counted from the first one.
fn beats(master: &FakeMaster) -> Vec<Duration> {
    let heartbeats = master.timed_requests::<v1::HeartbeatRequest>();
    let since = |(at, _): &(Instant, _)| *at - heartbeats[0].0;
    heartbeats.iter().map(since).collect()
}

fn last_beat(master: &FakeMaster) -> v1::HeartbeatRequest {
    master.requests().pop().unwrap()
}

/// A running master and a link to it.
struct Setup {
    master: FakeMaster,
    link: MasterLink,
    readiness: Readiness,
    shutdown: Shutdown,
}

impl Setup {
    async fn new(behaviour: Behaviour) -> Self {
        let master = FakeMaster::default();
        master.with(|state| state.ends_views = true);
        behaviour.set(&master);
        let link = MasterLink {
            client: master.client().await,
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

/// State of the role: what it has seen and how it behaves.
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
            setup.master.count::<v1::RegisterRequest>() > 3,
            "{}",
            setup.master.count::<v1::RegisterRequest>()
        );
        assert!(!setup.is_ready());
        Behaviour::Answers.set(&setup.master);
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
    let beats = beats(&setup.master);
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
    assert_eq!(beats(&setup.master).len(), 2);
    member.trigger.request();
    member.trigger.request();
    sleep(Duration::from_millis(20)).await;
    assert_eq!(
        beats(&setup.master).len(),
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
    let beats = beats(&setup.master);
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
    assert!(last_beat(&setup.master).ready);
    member.role.lock().is_away = true;
    sleep(Duration::from_millis(150)).await;
    let told = last_beat(&setup.master);
    assert_eq!(
        (told.ready, told.not_ready_reason.as_str()),
        (false, "away")
    );
    assert_eq!(beats(&setup.master).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_master_forgot_registers_again_and_reports_soon() {
    let setup = Setup::new(Behaviour::Answers).await;
    let member = FakeMember::default();
    let _beats = setup.start(member.clone());
    sleep(Duration::from_millis(500)).await;
    Behaviour::Forgot.set(&setup.master);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(setup.master.count::<v1::RegisterRequest>(), 1);
    assert_eq!(
        beats(&setup.master).len(),
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
        behaviour.set(&setup.master);
        sleep(INTERVAL * 3).await;
        assert!(setup.is_ready(), "{behaviour:?}: a few are no reason");
        // One that hangs takes the five seconds of a call.
        sleep(INTERVAL * 30).await;
        let reasons = setup.readiness.reasons();
        assert!(
            matches!(&reasons[..], [("master", why)] if why.contains("does not answer")),
            "{reasons:?}"
        );
        Behaviour::Answers.set(&setup.master);
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
            let leaves = last_beat(&setup.master)
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
    let opened = setup.master.count::<v1::WatchMapRequest>();
    assert!(
        (4..=12).contains(&opened),
        "each view begins the back-off anew, found {opened}"
    );

    Behaviour::Hangs.set(&setup.master);
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
