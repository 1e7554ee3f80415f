//! Accounts: `simple-user`, and `public-user` of `GET /users/{username}`.

use serde_json::{Value, json};

use super::{Links, node_id};
use crate::clock::stamp;
use crate::model::Account;
use crate::seed::AccountType;

/// `simple-user`.
pub(crate) fn simple_user(account: &Account, links: &Links) -> Value {
    let login = &account.login;
    let encoded = login.replace('[', "%5B").replace(']', "%5D");
    let api = format!("{}/users/{encoded}", links.api);
    let html = match login.strip_suffix("[bot]") {
        Some(slug) => format!("{}/apps/{slug}", links.web),
        None => format!("{}/{login}", links.web),
    };
    let mut user = json!({
        "login": login,
        "id": account.id,
        "node_id": node(account),
        "avatar_url": format!("{}/avatars/u/{}?v=4", links.web, account.id),
        "gravatar_id": "",
        "url": api,
        "html_url": html,
        "type": match account.kind {
            AccountType::User => "User",
            AccountType::Organization => "Organization",
            AccountType::Bot => "Bot",
        },
        "user_view_type": "public",
        "site_admin": false,
    });
    for (field, rest) in [
        ("followers_url", "/followers"),
        ("following_url", "/following{/other_user}"),
        ("gists_url", "/gists{/gist_id}"),
        ("starred_url", "/starred{/owner}{/repo}"),
        ("subscriptions_url", "/subscriptions"),
        ("organizations_url", "/orgs"),
        ("repos_url", "/repos"),
        ("events_url", "/events{/privacy}"),
        ("received_events_url", "/received_events"),
    ] {
        user[field] = json!(format!("{api}{rest}"));
    }
    user
}

fn node(account: &Account) -> String {
    let prefix = match account.kind {
        AccountType::User => "U",
        AccountType::Organization => "O",
        AccountType::Bot => "BOT",
    };
    node_id(prefix, account.id)
}

/// `public-user`.
pub(crate) fn user(account: &Account, public_repositories: usize, links: &Links) -> Value {
    let mut user = simple_user(account, links);
    for field in ["name", "company", "location", "email", "hireable", "bio", "twitter_username"] {
        user[field] = Value::Null;
    }
    user["blog"] = json!("");
    user["public_repos"] = json!(public_repositories);
    for field in ["public_gists", "followers", "following"] {
        user[field] = json!(0);
    }
    user["created_at"] = json!(stamp(account.created));
    user["updated_at"] = json!(stamp(account.created));
    user
}
