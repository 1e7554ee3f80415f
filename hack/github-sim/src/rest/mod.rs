//! The REST API: one table of routes, and the one path of a request through it.
//!
//! A route states its documentation page and its requirements for the caller. Access is therefore decided in one place,
//! before any handler; a handler that had to check it could forget to.

mod answer;
mod app;
mod branches;
mod compare;
mod forks;
mod hooks;
mod installations;
mod meta;
mod mint;
mod pulls;
mod refs;
mod repositories;
mod route;
mod users;

pub(crate) use answer::{Answer, Content, Reply, finish};
use route::Parameters;
pub(crate) use route::{Access, Asked, Call, Route};

use http::{HeaderValue, Method, StatusCode, header};

use crate::access::Level;
use crate::credential::{self, Credential};
use crate::journal::Caller;
use crate::jwt;
use crate::model::Repository;
use crate::refusal::{DOCUMENTATION, Refusal};
use crate::state::State;

/// All routes. If two match, the first is used.
fn routes() -> impl Iterator<Item = &'static Route> {
    [
        meta::ROUTES,
        app::ROUTES,
        installations::ROUTES,
        mint::ROUTES,
        users::ROUTES,
        branches::ROUTES,
        compare::ROUTES,
        forks::ROUTES,
        refs::ROUTES,
        hooks::ROUTES,
        pulls::ROUTES,
        repositories::ROUTES,
    ]
    .into_iter()
    .flatten()
}

/// The route of a request, its parameters, and its name in the log.
fn matched(state: &State, asked: &Asked) -> Option<(&'static Route, Parameters, String)> {
    let mut segments = asked.segments();
    let find = |segments: &[String]| routes().find_map(|route| Some((route, route.matches(&asked.method, segments)?)));
    let by_id = segments.first().is_some_and(|first| first == "repositories") && segments.len() > 1;
    if !by_id {
        let (route, parameters) = find(&segments)?;
        return Some((route, parameters, route.template.to_owned()));
    }
    // `/repositories/ID/…` is `/repos/OWNER/NAME/…` with the current name. No repository has an empty name.
    let found = segments[1].parse().ok().and_then(|id: u64| state.repositories.get(&id));
    let named = found.map(|found| [state.login(found.owner).to_owned(), found.name.clone()]).unwrap_or_default();
    segments.splice(..2, std::iter::once("repos".to_owned()).chain(named));
    let (route, parameters) = find(&segments)?;
    Some((route, parameters, route.template.replace("/repos/{owner}/{repo}", "/repositories/{repository_id}")))
}

/// The sender and the route of a request that is not handled.
pub(crate) fn attribution(state: &State, asked: &Asked) -> (Caller, Option<String>) {
    (attributed(state, asked), matched(state, asked).map(|(_, _, template)| template))
}

/// Answers a request.
pub(crate) fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.headers.get(header::USER_AGENT).is_none_or(HeaderValue::is_empty) {
        return finish(state, asked, None, &Credential::Nobody, Ok(no_user_agent()));
    }
    if asked.method == Method::OPTIONS {
        return finish(state, asked, None, &Credential::Nobody, Ok(preflight()));
    }
    let Some((route, parameters, template)) = matched(state, asked) else {
        let refused = credential::of(state, &asked.headers, false).err().unwrap_or_else(Refusal::not_found);
        return finish(state, asked, None, &Credential::Nobody, Err(refused));
    };
    let for_app = matches!(route.access, Access::App | Access::AppOfRepository);
    let mut answer = match credential::of(state, &asked.headers, for_app) {
        Ok(who) => {
            let mut call = Call { state, asked, parameters, who: who.clone(), repository: 0 };
            let result = answer::before(call.state, asked, &who)
                .and_then(|()| admit(&mut call, route))
                .and_then(|()| (route.handler)(&mut call));
            finish(state, asked, Some(route), &who, result)
        }
        Err(refused) => {
            let mut answer = finish(state, asked, Some(route), &Credential::Nobody, Err(refused));
            answer.caller = attributed(state, asked);
            answer
        }
    };
    answer.route = Some(template);
    answer
}

/// The answer to a client that sends no `User-Agent`.
fn no_user_agent() -> Reply {
    const TEXT: &str = "\r\nRequest forbidden by administrative rules. Please make sure your request has a User-Agent \
        header (https://docs.github.com/en/rest/overview/resources-in-the-rest-api#user-agent-required). \
        Check https://developer.github.com for other possible causes.\r\n";
    let headers = vec![(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned())];
    Reply { status: StatusCode::FORBIDDEN, body: Some(Content::Other(TEXT.into())), headers }
}

/// The answer to a browser's question before a request: any page may use the API.
fn preflight() -> Reply {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PATCH, PUT, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, Content-Type, If-Match, If-Modified-Since, If-None-Match, Accept-Encoding, X-GitHub-OTP, \
             X-Requested-With, User-Agent, GraphQL-Features, X-GitHub-Api-Version",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    let headers = headers.map(|(name, value)| (name, value.to_owned())).into();
    Reply { status: StatusCode::NO_CONTENT, body: None, headers }
}

/// The owner of a credential, for the log, even if it is refused: the requests of a suspended installation belong to
/// it.
fn attributed(state: &State, asked: &Asked) -> Caller {
    let Some(secret) = credential::presented(&asked.headers) else { return Caller::None };
    if jwt::is_jwt(&secret) {
        let app = jwt::verify(&secret, state.apps.values(), state.now());
        return app.map_or(Caller::None, |app| Caller::App(app.id));
    }
    state.live_token(&secret).map_or(Caller::None, |(_, token)| Caller::Installation(token.installation))
}

/// Decides whether this caller may use this route, before its handler.
fn admit(call: &mut Call<'_>, route: &Route) -> Result<(), Refusal> {
    match (route.access, &call.who) {
        (Access::Anyone, _)
        | (Access::App, Credential::App(_))
        | (Access::Installation, Credential::Installation(..)) => Ok(()),
        (Access::AppOfRepository, Credential::App(_)) => {
            call.repository = named(call)?.id;
            Ok(())
        }
        (Access::App | Access::AppOfRepository, _) => Err(Refusal::new(StatusCode::UNAUTHORIZED, jwt::UNDECODABLE)),
        (Access::Installation, Credential::Nobody) => {
            Err(Refusal::new(StatusCode::UNAUTHORIZED, "Requires authentication"))
        }
        (Access::Installation, Credential::App(_)) => {
            Err(Refusal::new(StatusCode::FORBIDDEN, "You must authenticate with an installation access token"))
        }
        (Access::Repository(permission, level), who) => {
            let repository = named(call)?;
            let id = repository.id;
            permitted(call.state, who, repository, permission, level)?;
            // The repository itself can still be changed, so that it can be unarchived or deleted.
            if level > Level::Read && repository.archived && route.template != "/repos/{owner}/{repo}" {
                return Err(Refusal::archived());
            }
            call.repository = id;
            Ok(())
        }
        (Access::Source, Credential::Nobody) => {
            Err(Refusal::new(StatusCode::UNAUTHORIZED, "You must be logged in to do that."))
        }
        (Access::Source, who) => {
            let repository = named(call)?;
            let id = repository.id;
            visible(call.state, who, repository)?;
            call.repository = id;
            Ok(())
        }
    }
}

/// The repository in the path. A former name redirects callers who may see the repository.
fn named<'a>(call: &'a Call<'_>) -> Result<&'a Repository, Refusal> {
    let (owner, name) = (call.parameter("owner"), call.parameter("repo"));
    if let Some(repository) = call.state.repository(owner, name) {
        return Ok(repository);
    }
    let moved = call.state.moved(owner, name).ok_or_else(Refusal::not_found)?;
    visible(call.state, &call.who, moved)?;
    Err(redirect(call.asked, moved.id))
}

fn redirect(asked: &Asked, id: u64) -> Refusal {
    let (status, message) = if [Method::GET, Method::HEAD].contains(&asked.method) {
        (StatusCode::MOVED_PERMANENTLY, "Moved Permanently")
    } else {
        (StatusCode::TEMPORARY_REDIRECT, "Temporary Redirect")
    };
    let rest = asked.path.splitn(5, '/').nth(4).map(|rest| format!("/{rest}")).unwrap_or_default();
    let query = if asked.query.is_empty() { String::new() } else { format!("?{}", asked.query) };
    let url = format!("{}/repositories/{id}{rest}{query}", asked.api);
    Refusal { url: Some(url.clone()), ..Refusal::new(status, message) }.with_header(header::LOCATION, url)
}

/// Whether a caller sees that a repository exists.
pub(crate) fn visible(state: &State, who: &Credential, repository: &Repository) -> Result<(), Refusal> {
    let reached = match who {
        Credential::Installation(_, token) => state.token_reaches(token, repository),
        Credential::App(app) => {
            state.installations.values().any(|found| found.app == *app && found.reaches(repository))
        }
        Credential::Nobody => false,
    };
    if reached || !repository.private { Ok(()) } else { Err(Refusal::not_found()) }
}

/// Whether a caller has a permission on a repository. Reading public data needs none.
pub(crate) fn permitted(
    state: &State,
    who: &Credential,
    repository: &Repository,
    permission: &str,
    level: Level,
) -> Result<(), Refusal> {
    visible(state, who, repository)?;
    let public = !repository.private && level == Level::Read && permission != "repository_hooks";
    match who {
        _ if public => Ok(()),
        Credential::Installation(_, token) => {
            let granted = state.token_level(token, permission).is_some_and(|granted| granted >= level);
            if granted && state.token_reaches(token, repository) { Ok(()) } else { Err(Refusal::not_accessible()) }
        }
        Credential::App(_) => Err(Refusal::not_accessible()),
        Credential::Nobody => Err(Refusal::new(StatusCode::UNAUTHORIZED, "Requires authentication")),
    }
}

/// The page that documents a route.
pub(crate) fn documentation(route: Option<&Route>) -> String {
    route.map_or_else(|| DOCUMENTATION.to_owned(), |route| format!("{DOCUMENTATION}/{}", route.page))
}

/// The served routes, by method and template.
pub(crate) fn served() -> impl Iterator<Item = (&'static Method, &'static str)> {
    routes().map(|route| (&route.method, route.template))
}
