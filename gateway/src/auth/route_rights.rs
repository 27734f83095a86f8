//! Rights that each route under `/api` demands of a token: one line a route. A route without a line
//! is served to nobody.

use http::Method;

use crate::auth::bearer::Access;
use crate::auth::tokens::Right::{self, Delete, Read, Write};
use crate::error::ApiError;

/// A route and the rights that it demands.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Method. GET stands for HEAD too.
    pub method: &'static str,
    /// Path as the router writes it.
    pub path: &'static str,
    /// Suffix of the path of a POST to a file, such as `:copy`. Empty for other routes.
    pub verb: &'static str,
    /// Rights that a token needs, all of them. Empty if every valid token is enough.
    pub rights: &'static [Right],
    /// True if the answer is about the whole cluster: only the default tenant gets it.
    pub whole_cluster: bool,
}

const fn route(method: &'static str, path: &'static str, rights: &'static [Right]) -> Route {
    Route {
        method,
        path,
        verb: "",
        rights,
        whole_cluster: false,
    }
}

/// Files by name.
pub(crate) const FILE: &str = "/api/files/{*name}";

/// All routes under `/api`.
pub const ROUTES: &[Route] = &[
    route("POST", "/api/upload", &[Write]),
    route("GET", "/api/files", &[Read]),
    route("GET", FILE, &[Read]),
    route("PUT", FILE, &[Write]),
    route("DELETE", FILE, &[Delete]),
    // A copy makes readable under a new name what may not be read under the old one.
    Route {
        verb: ":copy",
        ..route("POST", FILE, &[Write, Read])
    },
    // The old name is gone afterwards.
    Route {
        verb: ":rename",
        ..route("POST", FILE, &[Write, Delete])
    },
    route("GET", "/api/download/{*name}", &[Read]),
    route("GET", "/api/stats", &[Read]),
    // The page asks for the rights of its token here, so the route must demand no right itself.
    route("GET", "/api/page", &[]),
    Route {
        whole_cluster: true,
        ..route("GET", "/api/usage", &[Read])
    },
    Route {
        whole_cluster: true,
        ..route("GET", "/api/cluster", &[Read])
    },
    route("GET", "/api/openapi.json", &[Read]),
];

/// Judges a request whose sender is known. `Ok(false)`: no line fits, and no handler must run.
///
/// # Errors
/// `permission_denied`.
pub(crate) fn check(
    access: &Access,
    method: &Method,
    matched: Option<&str>,
    path: &str,
) -> Result<bool, ApiError> {
    let method = if method == Method::HEAD {
        Method::GET
    } else {
        method.clone()
    };
    let fits = |route: &&Route| {
        method.as_str() == route.method && matched == Some(route.path) && path.ends_with(route.verb)
    };
    let Some(route) = ROUTES.iter().find(fits) else {
        return Ok(false);
    };
    for right in route.rights {
        access.require(*right)?;
    }
    if route.whole_cluster {
        access.require_default_tenant()?;
    }
    Ok(true)
}
