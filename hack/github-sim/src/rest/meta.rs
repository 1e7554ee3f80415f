//! The API's information about itself.

use http::Method;
use serde_json::{Value, json};

use super::{Access, Call, Reply, Route};
use crate::refusal::Refusal;

pub(crate) const ROUTES: &[Route] = &[
    Route::on(Method::GET, "/", "meta/meta#github-api-root", Access::Anyone, root),
    Route::on(Method::GET, "/meta", "meta/meta#get-apiname-meta-information", Access::Anyone, meta),
    Route::on(Method::GET, "/versions", "meta/meta#get-all-api-versions", Access::Anyone, versions),
    Route::on(
        Method::GET,
        "/rate_limit",
        "rate-limit/rate-limit#get-rate-limit-status-for-the-authenticated-user",
        Access::Anyone,
        rate_limit,
    ),
    Route::on(Method::POST, "/graphql", "graphql", Access::Anyone, crate::graphql::answer),
];

const ROOT: [(&str, &str); 32] = [
    ("authorizations_url", "/authorizations"),
    ("code_search_url", "/search/code?q={query}{&page,per_page,sort,order}"),
    ("commit_search_url", "/search/commits?q={query}{&page,per_page,sort,order}"),
    ("current_user_repositories_url", "/user/repos{?type,page,per_page,sort}"),
    ("current_user_url", "/user"),
    ("emails_url", "/user/emails"),
    ("emojis_url", "/emojis"),
    ("events_url", "/events"),
    ("feeds_url", "/feeds"),
    ("followers_url", "/user/followers"),
    ("following_url", "/user/following{/target}"),
    ("gists_url", "/gists{/gist_id}"),
    ("hub_url", "/hub"),
    ("issue_search_url", "/search/issues?q={query}{&page,per_page,sort,order}"),
    ("issues_url", "/issues"),
    ("keys_url", "/user/keys"),
    ("label_search_url", "/search/labels?q={query}&repository_id={repository_id}{&page,per_page}"),
    ("notifications_url", "/notifications"),
    ("organization_repositories_url", "/orgs/{org}/repos{?type,page,per_page,sort}"),
    ("organization_teams_url", "/orgs/{org}/teams"),
    ("organization_url", "/orgs/{org}"),
    ("public_gists_url", "/gists/public"),
    ("rate_limit_url", "/rate_limit"),
    ("repository_search_url", "/search/repositories?q={query}{&page,per_page,sort,order}"),
    ("repository_url", "/repos/{owner}/{repo}"),
    ("starred_gists_url", "/gists/starred"),
    ("starred_url", "/user/starred{/owner}{/repo}"),
    ("topic_search_url", "/search/topics?q={query}{&page,per_page}"),
    ("user_organizations_url", "/user/orgs"),
    ("user_repositories_url", "/users/{user}/repos{?type,page,per_page,sort}"),
    ("user_search_url", "/search/users?q={query}{&page,per_page,sort,order}"),
    ("user_url", "/users/{user}"),
];

fn root(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let mut shape: serde_json::Map<String, Value> =
        ROOT.iter().map(|(field, rest)| ((*field).to_owned(), json!(format!("{}{rest}", call.asked.api)))).collect();
    let authorizations = format!("{}/settings/connections/applications{{/client_id}}", call.state.web);
    shape.insert("current_user_authorizations_html_url".to_owned(), json!(authorizations));
    Reply::ok(Value::Object(shape))
}

fn meta(_: &mut Call<'_>) -> Result<Reply, Refusal> {
    Reply::ok(json!({"verifiable_password_authentication": false}))
}

fn versions(_: &mut Call<'_>) -> Result<Reply, Refusal> {
    Reply::ok(json!([super::answer::NEWEST, super::answer::DEFAULT]))
}

/// This request does not count against the limit.
fn rate_limit(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let now = call.state.now();
    let standing = call.state.rates.refund(call.who.budget(), now);
    let core = json!({
        "limit": standing.limit, "used": standing.used, "remaining": standing.remaining(), "reset": standing.reset,
    });
    let other = |limit: u64| json!({"limit": limit, "used": 0, "remaining": limit, "reset": standing.reset});
    let resources = json!({
        "core": core, "graphql": other(5000), "integration_manifest": other(5000), "search": other(30),
    });
    Reply::ok(json!({"resources": resources, "rate": core}))
}
