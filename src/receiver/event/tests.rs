use super::*;
use crate::ids::id;
use serde_json::json;

const GUID: &str = "72d3162e-cc78-11e3-81ab-4c9367dc0958";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

fn head(content_type: &str) -> Head {
    Head::read(&headers(&[(EVENT_HEADER, "push"), (GUID_HEADER, GUID), ("content-type", content_type)])).unwrap()
}

fn read(body: &[u8]) -> Result<Payload, EventError> {
    Payload::read(&head("application/json"), body)
}

fn read_value(body: &serde_json::Value) -> Payload {
    read(body.to_string().as_bytes()).unwrap()
}

fn push() -> serde_json::Value {
    json!({
        "ref": "refs/heads/main", "before": "1".repeat(40), "after": "2".repeat(40), "deleted": false,
        "repository": {"id": 9001, "name": "shop", "full_name": "acme/shop", "owner": {"id": 7001, "login": "acme"}},
        "installation": {"id": 501},
        "commits": [{"message": "deep \" and \\ escaped", "nested": {"ref": "no", "after": ["no"]}}],
    })
}

#[test]
fn a_push_is_read_from_json_and_from_a_form() {
    let expected = Payload {
        action: None,
        reference: Some("refs/heads/main".into()),
        sha: Some("2".repeat(40)),
        repository: Some(Repository { id: id(9001), names: vec!["shop".into()], owners: vec![id(7001)] }),
        selection: None,
        account: None,
    };
    assert_eq!(read_value(&push()), expected);
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("other", "x")
        .append_pair("payload", &push().to_string())
        .finish();
    let format = head("application/x-www-form-urlencoded; charset=utf-8");
    assert_eq!(Payload::read(&format, form.as_bytes()), Ok(expected));
    assert_eq!(Payload::read(&format, b"other=x"), Err(EventError::Form));
}

#[test]
fn the_repositories_of_a_selection_are_read_by_id() {
    let selection = |added: serde_json::Value, removed: serde_json::Value| {
        let installation = json!({"id": 501, "account": {"id": 7001, "login": "acme"}});
        let body = json!({"action": "added", "installation": installation, "repositories_added": added, "repositories_removed": removed});
        read_value(&body).selection
    };
    let of = |repositories: &[i64]| {
        Some(Selection { owner: id(7001), repositories: repositories.iter().copied().map(id).collect() })
    };
    assert_eq!(selection(json!([{"id": 1, "name": "a"}]), json!([{"id": 2}])), of(&[1, 2]));
    assert_eq!(selection(json!([]), json!([])), of(&[]), "all unselected repositories were removed");
    let many: Vec<_> = (0..=MOST_LISTED).map(|before| json!({"id": before + 1})).collect();
    let most = selection(json!(many[1..]), json!(many[2..])).unwrap().repositories;
    assert_eq!(most.len(), MOST_LISTED, "each id counts once");
    assert_eq!(selection(json!(many), json!([])), of(&[]), "too many to list");
    assert_eq!(selection(json!(many[1..]), json!([{"id": 1}])), of(&[]), "too many in both lists");
    assert_eq!(selection(json!({"id": 1}), json!([[3], "x", null, {"id": "4"}, {"id": 0}, {"id": 5}])), of(&[5]));
}

#[test]
fn the_account_of_an_installation_is_read_where_the_event_has_it() {
    let acme = json!({"id": 7001, "login": "acme"});
    let account = |body: serde_json::Value| read_value(&body).account;
    let expected = Some(Account { id: id(7001), login: Some("acme".into()) });
    assert_eq!(account(json!({"installation": {"id": 501, "account": acme}})), expected);
    assert_eq!(account(json!({"installation": {"id": 501}, "account": acme})), expected, "it was renamed");
    assert_eq!(account(json!({"installation": {"account": {"id": 7001}}})).unwrap().login, None);
    assert_eq!(account(json!({"installation": {"account": {"login": "acme"}}})), None);
}

#[test]
fn headers_are_whole_and_bounded_or_refused() {
    let whole = [(EVENT_HEADER, "push"), (GUID_HEADER, GUID), ("content-type", "application/json")];
    let with = |name: &str, value: &str| {
        let mut changed = headers(&whole);
        changed.insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        Head::read(&changed).map(|head| head.guid)
    };
    assert_eq!(with(GUID_HEADER, &GUID.to_uppercase()), Ok(GUID.to_owned()), "one spelling");
    assert_eq!(with("content-type", "Application/JSON;charset=utf-8"), Ok(GUID.to_owned()));
    for odd in ["", "Push", "push!", "../x", &"a".repeat(65)] {
        assert_eq!(with(EVENT_HEADER, odd), Err(EventError::Name), "{odd}");
    }
    for odd in ["", "x", &GUID[1..], &format!("{GUID}0"), &GUID.replace('-', "0"), &GUID.replace('7', "g")] {
        assert_eq!(with(GUID_HEADER, odd), Err(EventError::Guid), "{odd}");
    }
    for odd in ["", "text/plain", "application/jsonx", "multipart/form-data"] {
        assert_eq!(with("content-type", odd), Err(EventError::ContentType), "{odd}");
    }
    for missing in [EVENT_HEADER, GUID_HEADER, "content-type"] {
        let mut less = headers(&whole);
        less.remove(missing);
        assert!(Head::read(&less).is_err(), "{missing}");
    }
}

#[test]
fn a_field_of_another_type_counts_as_absent() {
    for odd in [json!(null), json!(true), json!(-1), json!(1.5), json!([[1], {"a": 1}]), json!({"a": {"b": []}})] {
        let mut body = push();
        for field in ["action", "ref", "after", "changes", "repository"] {
            body[field] = odd.clone();
        }
        assert_eq!(read_value(&body), Payload::default(), "{odd}");
        for field in ["id", "name", "owner"] {
            let mut body = push();
            body["repository"][field] = odd.clone();
            assert_eq!(read_value(&body).repository, None, "{field} {odd}");
        }
    }
    for odd in [0, u64::MAX] {
        for id in ["/repository/id", "/repository/owner/id"] {
            let mut body = push();
            *body.pointer_mut(id).unwrap() = json!(odd);
            assert_eq!(read_value(&body).repository, None, "{id} {odd}");
        }
    }
    for body in
        [&b""[..], b"[]", b"1", b"\"x\"", b"{", b"{}x", b"\xff", b"{\"ref\":\"\\ud800\"}", b"{\"ref\":1,\"ref\":2}"]
    {
        assert_eq!(read(body), Err(EventError::Json), "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn values_that_status_cannot_hold_are_left_out() {
    let mut body = push();
    body["action"] = json!("a".repeat(65));
    body["ref"] = json!("r".repeat(1025));
    for after in ["0".repeat(40), "z".repeat(40), "2".repeat(39)] {
        body["after"] = json!(after);
        let payload = read_value(&body);
        assert_eq!((payload.action, payload.reference, payload.sha), (None, None, None));
        assert!(payload.repository.is_some());
    }
}

#[test]
fn a_control_character_is_refused_by_the_name_of_its_field() {
    for field in ["ref", "action"] {
        for odd in ["refs/heads/\0", "refs/heads/\u{1b}[2J", "a\nb", "\u{7f}", &format!("{}\t", "r".repeat(2000))] {
            let mut body = push();
            body[field] = json!(odd);
            let refused = read(body.to_string().as_bytes());
            assert_eq!(refused, Err(EventError::ControlCharacter(field)), "{odd:?}");
            assert!(refused.unwrap_err().to_string().contains(&format!("`{field}`")));
        }
    }
    let mut body = push();
    body["ref"] = json!("refs/heads/grün");
    assert_eq!(read_value(&body).reference.as_deref(), Some("refs/heads/grün"));
}

#[test]
fn a_moved_repository_is_known_by_its_former_name_and_owner() {
    let mut body = push();
    body["changes"] = json!({
        "repository": {"name": {"from": "store"}},
        "owner": {"from": {"organization": {"id": 7002, "login": "globex"}}},
    });
    let repository = read_value(&body).repository.unwrap();
    assert_eq!(repository.names, ["shop", "store"]);
    assert_eq!(repository.owners, [id(7001), id(7002)]);
    body["changes"] = json!({"owner": {"from": {"user": {"id": 7003}}}});
    assert_eq!(read_value(&body).repository.unwrap().owners, [id(7001), id(7003)]);
}

#[test]
fn deep_nesting_uses_no_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(1_000_000), close.repeat(1_000_000));
        for field in ["action", "unwanted", "repository", "changes"] {
            let body = format!("{{\"{field}\":{deep},\"ref\":\"refs/heads/main\"}}");
            assert_eq!(read(body.as_bytes()).unwrap().reference.as_deref(), Some("refs/heads/main"), "{field}");
        }
    }
}
