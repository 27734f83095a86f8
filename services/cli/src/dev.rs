//! `cstore serve` and `cstore dev`: all roles in one process. They call each other directly; their
//! inner ports are open on 127.0.0.1, for grpcurl.
//!
//! | | `serve` | `dev` |
//! |---|---|---|
//! | requests without a token | refused; the first start makes a token | served, on loopback only, unless CSTORE_API_TOKENS_FILE is set |
//! | capacity of the disk | the size of its file system | 10 GiB |
//! | admin port | 9100 | 9100 if it is free |
//!
//! All data of the process is under `CSTORE_DATA_DIR`: the secret, the API tokens, the master's
//! metadata and one folder a storage node (`storage-1`, `storage-2`, …). Each role is configured
//! through the same variables as when it runs alone; variables that differ between the roles of one
//! process are overridden.

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
use crate::paths::{DATA, PickedPath};
use crate::process::{self, Ports, Running};
use crate::role::{Plan, Role};
use crate::{secret, settings, tls, token};
use layout::{HOST, Layout, Member, Nodes, Purpose};
use lives::Lives;

/// Runs the whole system for real use until a signal.
pub(crate) fn serve(options: &args::Serve, source: &dyn Source) -> Result<(), Failure> {
    let source = options.settings.over(source);
    let admin_host = admin_host(&source);
    let listen = options.listen.as_ref().map(|listen| {
        [
            ("CSTORE_LISTEN_HOST", listen.host.clone()),
            (Role::Gateway.port().0, listen.port.to_string()),
        ]
    });
    let source = settings::lay(listen.as_ref().map_or(&[], |pairs| pairs), &source);
    let nodes = Nodes {
        workers: 1,
        storages: None,
    };
    run_all(Purpose::Serve, nodes, &admin_host, &source)
}

/// Runs the whole system for trying it until a signal.
pub(crate) fn run(options: &args::Dev, source: &dyn Source) -> Result<(), Failure> {
    let nodes = Nodes {
        workers: options.workers,
        storages: options.storages,
    };
    let source = options.settings.over(source);
    run_all(Purpose::Dev, nodes, &admin_host(&source), &source)
}

/// Returns the address of the admin port, which `--listen` does not change: metrics need no token.
fn admin_host(source: &dyn Source) -> String {
    Env::new(source).string("CSTORE_LISTEN_HOST", HOST)
}

fn run_all(
    purpose: Purpose,
    nodes: Nodes,
    admin_host: &str,
    source: &dyn Source,
) -> Result<(), Failure> {
    let mut env = Env::new(source);
    settings::refuse_unknown(&mut env, source);
    let telemetry = TelemetryConfig::from_env(&mut env);
    let admin_port = env.port(process::ADMIN_PORT, Role::Gateway.admin_port());
    let needs_admin_port = purpose == Purpose::Serve || !env.is_default(process::ADMIN_PORT);
    let secret_path = secret::path(&mut env);
    let tokens_path = cstore_gateway::tokens_file(&mut env);
    let data = env.path(DATA, "./data");
    let paths = [
        PickedPath::data(&data, "--data", source),
        PickedPath::secret(&secret_path, "--cluster-secret-file", source),
        PickedPath::tokens(&tokens_path, "--api-tokens-file", source),
    ];
    let drain = cstore_node::shutdown::drain_timeout(&mut env);
    let layout = Layout::new(purpose, nodes, &mut env)?;
    let tls = tls::read(&mut env);
    check(&env, &layout, source)?;
    let share = share(&layout, source)?;
    let secret = secret::read_or_generate(&secret_path).map_err(Failure::usage)?;
    process::run(purpose.name(), &telemetry, |shutdown| async move {
        process::log_configuration(&env);
        paths.iter().for_each(PickedPath::log);
        let mut ports = Ports::default();
        let members = bind(&layout, &mut ports).await?;
        let admin_listener = if needs_admin_port {
            ports
                .bind(process::ADMIN_PORT, admin_host, admin_port)
                .await
        } else {
            optional_admin_port(admin_host, admin_port).await
        };
        ports.check()?;
        if purpose == Purpose::Serve && !layout.is_anonymous {
            token::print_first(&tokens_path, &mut std::io::stdout().lock())?;
        }
        let gateway = Readiness::new(&[]);
        let metrics = RoleMetrics::new(metrics::registry(purpose.name()));
        let roles = start(
            &layout,
            members,
            source,
            (&secret, tls.as_ref(), share),
            &gateway,
            &metrics,
        )?;
        let admin_stop = Shutdown::new();
        if let Some(listener) = admin_listener {
            let (readiness, stop) = (gateway.clone(), admin_stop.clone());
            process::serve_admin(listener, readiness, roles.registries, stop);
        }
        let greeting =
            cstore_node::shutdown::spawn("greeting", ready::greet(gateway, roles.greeting));
        let ended = process::supervise(roles.running, drain, shutdown).await;
        greeting.abort();
        admin_stop.trigger();
        ended
    })
}

/// Reports the mistakes of all roles together. MUST be called BEFORE files or ports are opened.
fn check(env: &Env<'_>, layout: &Layout, source: &dyn Source) -> Result<(), Failure> {
    let mut lines = String::new();
    let mut note = |found: Result<(), ConfigErrors>| {
        if let Err(mistakes) = found {
            lines.push_str(&format!("{mistakes}\n"));
        }
    };
    note(env.finish());
    for member in layout.members() {
        let mut env = Env::new(source).with_overrides(layout.overrides(&member, member.port, 0));
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
        let mut env = Env::new(source).with_overrides(layout.overrides(&member, member.port, 0));
        roles += 1;
        shares += Plan::from_env(member.role, &mut env).shares();
    }
    open_files::share(open_files::raise(), roles, shares)
}

/// Opens the admin port if it is free.
async fn optional_admin_port(host: &str, port: u16) -> Option<TcpListener> {
    match listen::bind(process::ADMIN_PORT, host, port).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            let failure = Failure::usage(error);
            tracing::info!(%failure, "no admin port is open");
            None
        }
    }
}

/// Opens the ports of all members before any role starts: roles need each other's, and a taken one
/// should leave no trace. Ports that cannot be opened stay as mistakes in `ports`.
async fn bind(layout: &Layout, ports: &mut Ports) -> Result<Vec<(Member, TcpListener)>, Failure> {
    let mut bound = Vec::new();
    for mut member in layout.members() {
        let variable = member.role.port().0;
        let host = layout.host_of(member.role);
        let Some(listener) = ports.bind(variable, host, member.port).await else {
            continue;
        };
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
        let mut env =
            Env::new(source).with_overrides(layout.overrides(&member, member.port, master_port));
        let mut plan = Plan::from_env(member.role, &mut env);
        plan.set_default_capacity(layout.default_capacity(&member));
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
            addr: (layout.host_of(member.role).to_owned(), member.port),
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
        listen_host: layout.listen_host.clone(),
        gateway_port,
        master_port,
        data_dir: layout.data_dir.clone(),
        is_anonymous: layout.is_anonymous,
        has_listen_flag: layout.purpose == Purpose::Serve,
    };
    Ok(Started {
        running,
        registries,
        greeting,
    })
}
