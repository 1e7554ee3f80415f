use super::*;
use crate::github::PlainHttp;
use crate::ids::id;
use serde_json::json;

fn facts(api_url: &str) -> Facts {
    let endpoint = Endpoint::parse(api_url, None, None, PlainHttp::OnLoopback).unwrap();
    Facts { endpoint, account: "Acme".into(), installation: id(501) }
}

fn object(spec: &serde_json::Value) -> InstallationToken {
    let mut whole = json!({"installationRef": {"name": "acme"}, "repositories": [{"name": "Shop"}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken", "metadata": {"name": "t"}, "spec": whole,
    }))
    .unwrap()
}

fn of(format: &str) -> InstallationToken {
    object(&json!({"secret": {"name": "git", "format": format}}))
}

const ALL: [&str; 6] = ["BasicAuth", "Opaque", "GitCredentials", "Netrc", "ArgoCDRepository", "ArgoCDRepoCreds"];
const TOKEN: &str = "ghs_1.a-b_c";

fn formatted(format: &str, facts: &Facts) -> Formatted {
    super::format(
        &of(format),
        &Known { token: TOKEN, expires_at: Timestamp::UNIX_EPOCH, ca_bundle: Some("PEM"), facts: Some(facts) },
    )
    .unwrap()
}

#[test]
fn every_format_has_the_token_and_the_certificates() {
    for format in ALL {
        let formatted = formatted(format, &facts("https://api.github.com"));
        assert_eq!((formatted.data["token"].as_str(), formatted.data["ca.crt"].as_str()), (TOKEN, "PEM"), "{format}");
        let kind = if format == "BasicAuth" { "kubernetes.io/basic-auth" } else { "Opaque" };
        assert_eq!(formatted.kind, kind, "{format}");
        assert_eq!(formatted.labels.is_empty(), !format.starts_with("Argo"), "{format}");
    }
}

#[test]
fn a_git_host_with_a_port_has_it_where_the_program_compares_it() {
    let github = facts("https://api.github.com");
    let own = facts("https://git.example.com:8443/api/v3");
    for (facts, credentials, netrc) in [
        (
            &github,
            "https://x-access-token:ghs_1.a-b_c@github.com\n",
            "machine github.com login x-access-token password ghs_1.a-b_c\n",
        ),
        (
            &own,
            "https://x-access-token:ghs_1.a-b_c@git.example.com:8443\n",
            "machine git.example.com login x-access-token password ghs_1.a-b_c\n",
        ),
    ] {
        assert_eq!(formatted("GitCredentials", facts).data[".git-credentials"], credentials);
        assert_eq!(formatted("Netrc", facts).data[".netrc"], netrc);
    }
    // Every character that an address could misread is escaped.
    assert_eq!(
        git_credentials(&github.endpoint, "a:/@?#%~"),
        "https://x-access-token:a%3A%2F%40%3F%23%25~@github.com\n"
    );
}

#[test]
fn argo_cd_gets_the_repositorys_address_or_that_of_all_of_the_account() {
    let facts = facts("https://git.example.com/api/v3");
    for (format, kind, url) in [
        ("ArgoCDRepository", "repository", "https://git.example.com/Acme/Shop"),
        ("ArgoCDRepoCreds", "repo-creds", "https://git.example.com/Acme/"),
    ] {
        let formatted = formatted(format, &facts);
        assert_eq!(formatted.labels, [(ARGO_CD_LABEL, kind)].into());
        let data: Vec<_> = formatted.data.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            data,
            [
                ("ca.crt", "PEM"),
                ("password", TOKEN),
                ("token", TOKEN),
                ("type", "git"),
                ("url", url),
                ("username", "x-access-token"),
            ]
        );
    }
}

#[test]
fn a_repository_for_argo_cd_is_one_by_name() {
    let facts = facts("https://api.github.com");
    let check = |spec| super::check(&object(&spec), Some(&facts));
    let secret = json!({"name": "git", "format": "ArgoCDRepository"});
    for spec in [
        json!({"secret": secret, "repositories": [{"name": "a"}, {"name": "b"}]}),
        json!({"secret": secret, "repositories": [{"id": 7}]}),
        json!({"secret": secret, "repositories": [], "repositorySelection": "All"}),
    ] {
        let error = check(spec).unwrap_err();
        assert_eq!(error.standing().reason, Reason::InvalidSpec);
        assert!(error.to_string().contains("ArgoCDRepoCreds"), "{error}");
    }
    check(json!({"secret": secret})).unwrap();
    let creds = json!({"name": "git", "format": "ArgoCDRepoCreds"});
    check(json!({"secret": creds, "repositories": [], "repositorySelection": "All"})).unwrap();
}

#[test]
fn formats_with_an_address_wait_until_it_is_known() {
    for format in ALL {
        let formatted = super::format(
            &of(format),
            &Known { token: TOKEN, expires_at: Timestamp::UNIX_EPOCH, ca_bundle: None, facts: None },
        );
        let needs = of(format).spec.secret.format.needs_facts();
        assert_eq!(formatted.err(), needs.then_some(FormatError::NotKnown), "{format}");
    }
}

#[test]
fn templates_are_checked_with_a_dummy_before_there_is_a_token() {
    let facts = facts("https://git.example.com:8443/api/v3");
    let object = |template: serde_json::Value| {
        object(&json!({"secret": {"name": "git", "format": "Template", "template": template}}))
    };
    let known = Known { token: TOKEN, expires_at: Timestamp::UNIX_EPOCH, ca_bundle: None, facts: Some(&facts) };
    let config = json!({"config": "{{ username }}:{{ token }}@{{ host }} {{ repositories[0] }} {{ expiresAt }}"});
    let formatted = super::format(&object(config.clone()), &known).unwrap();
    let expected = format!("x-access-token:{TOKEN}@git.example.com:8443 Acme/Shop 1970-01-01T00:00:00Z");
    assert_eq!(formatted.data, [("config".to_owned(), expected), ("token".to_owned(), TOKEN.to_owned())].into());
    check(&object(config), Some(&facts)).unwrap();
    // The key of the token is the operator's.
    let formatted = super::format(&object(json!({"token": "mine"})), &known).unwrap();
    assert_eq!(formatted.data["token"], TOKEN);

    let error = check(&object(json!({"a": "{{ token }}", "b.yaml": "x\n{{ tokn }}"})), Some(&facts)).unwrap_err();
    assert_eq!(error.standing().reason, Reason::InvalidTemplate);
    let message = error.to_string();
    assert!(message.starts_with("spec.secret.template[b.yaml], line 2: there is no variable tokn"), "{message}");

    // Five keys of 63 KiB each.
    let long = format!("{}{}{}", "{% for a in repositories %}", "x".repeat(4000), "{% endfor %}");
    let names: Vec<_> = (0..16).map(|number| json!({"name": format!("r{number}")})).collect();
    let keys: std::collections::BTreeMap<_, _> = (0..5).map(|number| (format!("k{number}"), long.clone())).collect();
    let mut many = object(json!(keys));
    many.spec.repositories = serde_json::from_value(json!(names)).unwrap();
    assert_eq!(check(&many, Some(&facts)), Err(FormatError::TooLong));
}
