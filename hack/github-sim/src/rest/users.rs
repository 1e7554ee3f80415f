//! Accounts by name; an App's bot is `slug[bot]`.

use http::{Method, StatusCode};
use serde_json::json;

use super::{Access, Call, Reply, Route};
use crate::clock::stamp;
use crate::credential::Credential;
use crate::model::Account;
use crate::refusal::Refusal;
use crate::seed::AccountType;
use crate::shapes;

pub(crate) const ROUTES: &[Route] = &[
    Route::on(Method::GET, "/user", "users/users#get-the-authenticated-user", Access::Anyone, own),
    Route::on(Method::GET, "/users/{username}", "users/users#get-a-user", Access::Anyone, get),
    Route::on(Method::GET, "/orgs/{org}", "orgs/orgs#get-an-organization", Access::Anyone, organization),
];

/// Only people have this page.
fn own(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    Err(match call.who {
        Credential::Nobody => Refusal::new(StatusCode::UNAUTHORIZED, "Requires authentication"),
        _ => Refusal::not_accessible(),
    })
}

fn get(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let account = call.state.account(call.parameter("username")).ok_or_else(Refusal::not_found)?;
    Reply::ok(shapes::user(account, public_repositories(call, account), &call.links()))
}

fn public_repositories(call: &Call<'_>, account: &Account) -> usize {
    call.state.repositories.values().filter(|found| found.owner == account.id && !found.private).count()
}

fn organization(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let account = call.state.account(call.parameter("org")).filter(|found| found.kind == AccountType::Organization);
    let account = account.ok_or_else(Refusal::not_found)?;
    let mut shape = shapes::simple_user(account, &call.links());
    let api = format!("{}/orgs/{}", call.asked.api, account.login);
    if let Some(fields) = shape.as_object_mut() {
        fields
            .retain(|field, _| ["login", "id", "node_id", "avatar_url", "html_url", "type"].contains(&field.as_str()));
    }
    for (field, rest) in [
        ("url", ""),
        ("repos_url", "/repos"),
        ("events_url", "/events"),
        ("hooks_url", "/hooks"),
        ("issues_url", "/issues"),
        ("members_url", "/members{/member}"),
        ("public_members_url", "/public_members{/member}"),
    ] {
        shape[field] = json!(format!("{api}{rest}"));
    }
    shape["description"] = json!(null);
    shape["has_organization_projects"] = json!(true);
    shape["has_repository_projects"] = json!(true);
    shape["public_repos"] = json!(public_repositories(call, account));
    for field in ["public_gists", "followers", "following"] {
        shape[field] = json!(0);
    }
    shape["archived_at"] = json!(null);
    shape["created_at"] = json!(stamp(account.created));
    shape["updated_at"] = json!(stamp(account.created));
    Reply::ok(shape)
}
