//! `cstore dev`: all roles in one process. They call each other directly; their ports on 127.0.0.1
//! are open for clients and grpcurl.
//!
//! Everything that it keeps is under `CSTORE_DATA_DIR`: the secret, the master's metadata and one
//! directory a storage node (`storage-1`, `storage-2`, …). Each role is configured through the same
//! variables as when it runs alone; what differs between the roles of one process is laid over
//! them.

mod layout;
mod lives;
mod ready;

use std::collections::HashSet;

use cstore_mesh::{LocalServers, RoleMetrics, Tls};
use cstore_node::admin::Readiness;
use cstore_node::metrics::Registries;
use cstore_node::telemetry::TelemetryConfig;
use cstore_node::{ConfigErrors, Env, Shutdown, Source, listen, metrics};
use cstore_types::ClusterSecret;
use futures_util::FutureExt;
use tokio::net::TcpListener;

use crate::args;
use crate::exit::Failure;
use crate::open_files;
use crate::process::{self, Running};
use crate::role::{Plan, Role};
use crate::{secret, tls};
use layout::{HOST, Layout, Member};
use lives::Lives;

/// Runs the whole system until a signal.
pub(crate) fn run(options: &args::Dev, source: &dyn Source) -> Result<(), Failure> {
    let mut env = Env::new(source);
    let telemetry = TelemetryConfig::from_env(&mut env);
    let admin_port = env.optional::<u16>(
        process::ADMIN_PORT,
        "a port from 0 to 65535, where 0 means a free one",
    );
    let secret_path = secret::path(&mut env);
    let drain = cstore_node::shutdown::drain_timeout(&mut env);
    let layout = Layout::new(options, &mut env)?;
    let tls = tls::read(&mut env);
    check(&env, &layout, source)?;
    let share = share(&layout, source)?;
    let secret = secret::read_or_generate(&secret_path).map_err(Failure::usage)?;
    process::run("dev", &telemetry, |shutdown| async move {
        process::log_configuration(&env);
        let members = bind(&layout).await?;
        let gateway = Readiness::new(&[]);
        let metrics = RoleMetrics::new(metrics::registry("dev"));
        let roles = start(
            &layout,
            members,
            source,
            (&secret, tls.as_ref(), share),
            &gateway,
            &metrics,
        )?;
        let admin_stop = Shutdown::new();
        if let Some(port) = admin_port {
            process::admin(
                HOST,
                port,
                gateway.clone(),
                roles.registries,
                admin_stop.clone(),
            )
            .await?;
        }
        let greeting =
            cstore_node::shutdown::spawn("greeting", ready::greet(gateway, roles.greeting));
        let ended = process::supervise(roles.running, drain, shutdown).await;
        greeting.abort();
        admin_stop.trigger();
        ended
    })
}

/// All mistakes of all roles at once, before anything is touched.
fn check(env: &Env<'_>, layout: &Layout, source: &dyn Source) -> Result<(), Failure> {
    let mut lines = String::new();
    let mut note = |found: Result<(), ConfigErrors>| {
        if let Err(mistakes) = found {
            lines.push_str(&format!("{mistakes}\n"));
        }
    };
    note(env.finish());
    for member in layout.members() {
        let mut env =
            Env::new(source).with_overrides(layout.overrides(&member, source, member.port, 0));
        drop(Plan::from_env(member.role, &mut env));
        note(env.finish());
    }
    if lines.is_empty() {
        Ok(())
    } else {
        Err(Failure::mistakes(&lines))
    }
}

/// Returns the descriptors of one share of all members.
fn share(layout: &Layout, source: &dyn Source) -> Result<u64, Failure> {
    let (mut roles, mut shares) = (0, 0);
    for member in layout.members() {
        let mut env =
            Env::new(source).with_overrides(layout.overrides(&member, source, member.port, 0));
        roles += 1;
        shares += Plan::from_env(member.role, &mut env).shares();
    }
    open_files::share(open_files::raise(), roles, shares)
}

/// Opens all ports before any role starts: roles need each other's, and a taken one should leave no
/// trace.
async fn bind(layout: &Layout) -> Result<Vec<(Member, TcpListener)>, Failure> {
    let mut bound = Vec::new();
    for mut member in layout.members() {
        let listener = listen::bind(member.role.port().0, HOST, member.port)
            .await
            .map_err(Failure::usage)?;
        member.port = listener.local_addr().map_err(Failure::failed)?.port();
        bound.push((member, listener));
    }
    Ok(bound)
}

struct Started {
    running: Vec<Running>,
    registries: Registries,
    greeting: ready::Greeting,
}

/// Starts all members; they are stopped in the order of [`Layout::members`].
fn start(
    layout: &Layout,
    members: Vec<(Member, TcpListener)>,
    source: &dyn Source,
    (secret, tls, share): (&ClusterSecret, Option<&Tls>, u64),
    gateway: &Readiness,
    metrics: &RoleMetrics,
) -> Result<Started, Failure> {
    let port_of = |role| {
        members
            .iter()
            .find(|(member, _)| member.role == role)
            .map_or(0, |(member, _)| member.port)
    };
    let (gateway_port, master_port) = (port_of(Role::Gateway), port_of(Role::Master));
    let local = LocalServers::default();
    for (member, _) in &members {
        local.add(format!("{HOST}:{}", member.port));
    }
    let (mut running, mut seen) = (Vec::new(), HashSet::new());
    let registries = Registries::from(metrics.registry.clone());
    for (member, listener) in members {
        let mut env = Env::new(source).with_overrides(layout.overrides(
            &member,
            source,
            member.port,
            master_port,
        ));
        let mut plan = Plan::from_env(member.role, &mut env);
        plan.secure(tls.cloned());
        plan.join(&local);
        env.finish().map_err(Failure::usage)?;
        if let Some(warning) = plan.bound(share) {
            tracing::warn!(node = member.id, "{warning}");
        }
        // A role stops when its turn comes, not with the first: a worker outlives the requests of
        // the gateway.
        let stop = Shutdown::new();
        let readiness = if member.role == Role::Gateway {
            gateway.clone()
        } else {
            Readiness::new(&[])
        };
        // Names are unique at a port, so the first node of each role is shown.
        let metrics = metrics.of_node();
        if seen.insert(member.role) {
            registries.add(metrics.registry.clone());
        }
        let lives = Lives {
            plan,
            addr: (HOST, member.port),
            node: member.id.clone(),
            secret: secret.clone(),
            readiness,
            metrics,
        };
        let work = lives.run(listener, stop.clone()).boxed();
        tracing::info!(node = member.id, port = member.port, "starting");
        running.push(Running::start(member.role.name(), member.id, stop, work));
    }
    let greeting = ready::Greeting {
        gateway_port,
        master_port,
        data_dir: layout.data_dir.clone(),
    };
    Ok(Started {
        running,
        registries,
        greeting,
    })
}
