use super::*;

const TOKEN: &str = "ghs_canary-\"quoted\"";

fn variables() -> Variables<'static> {
    Variables {
        token: TOKEN,
        username: "x-access-token",
        expires_at: "2026-01-01T00:00:00Z".to_owned(),
        host: "github.com".to_owned(),
        api_url: "https://api.github.com",
        account: "acme",
        installation_id: 501,
        repositories: vec!["acme/shop".to_owned(), "acme/lib".to_owned()],
    }
}

fn problem(template: &str) -> Problem {
    let problem = render(template, &variables()).expect_err(template);
    assert!(!problem.message.contains("canary"), "{problem:?}");
    problem
}

#[test]
fn a_template_reads_its_variables() {
    for (template, rendered) in [
        ("plain {}\n", "plain {}\n".to_owned()),
        ("{{ username }}:{{ token }}@{{ host }}", format!("x-access-token:{TOKEN}@github.com")),
        (
            "{{ account }} {{ installationID }} {{ apiURL }} {{ expiresAt }}",
            "acme 501 https://api.github.com 2026-01-01T00:00:00Z".to_owned(),
        ),
        ("{{ (username ~ ':' ~ token)|b64encode }}", STANDARD.encode(format!("x-access-token:{TOKEN}"))),
        ("{{ token|tojson }}", serde_json::Value::from(TOKEN).to_string()),
        ("{{ repositories|tojson }}", r#"["acme/shop","acme/lib"]"#.to_owned()),
        ("{{ 'a/b c'|urlencode }}", "a%2Fb%20c".to_owned()),
        ("{{ repositories[0] }}", "acme/shop".to_owned()),
        (
            "{% for it in repositories %}{{ it }}{% if not loop.last %},{% endif %}{% endfor %}",
            "acme/shop,acme/lib".to_owned(),
        ),
        ("{% if account == 'acme' and 'acme/lib' in repositories %}a{% else %}b{% endif %}", "a".to_owned()),
        ("{{ 'a' if account == 'other' else 'b' }}<&>", "b<&>".to_owned()),
    ] {
        assert_eq!(render(template, &variables()).as_deref(), Ok(rendered.as_str()), "{template}");
    }
}

#[test]
fn a_problem_has_its_line_and_no_value() {
    for (template, line, words) in [
        ("a\n{{ tokn }}", 2, "there is no variable tokn; there are account, apiURL"),
        ("{{ token|upper }}", 1, "there is no filter upper; there are b64encode"),
        ("\n\n{{ token", 3, "syntax error"),
        ("{{ token + 1 }}", 1, "calculations are not available"),
        ("{{ token|b64encode(1) }}", 1, "takes no arguments"),
        ("{{ token.secret }}", 1, "only variables"),
        ("{{ token() }}", 1, "only variables"),
        ("{{ repositories[7] }}", 1, "undefined value"),
        ("{% for token in repositories %}{% endfor %}", 1, "needs a name that is not taken"),
    ] {
        let problem = problem(template);
        assert_eq!(problem.line, Some(line), "{template}: {problem:?}");
        assert!(problem.message.contains(words), "{template}: {problem:?}");
    }
}

#[test]
fn a_template_cannot_grow_beyond_its_bounds() {
    let many = |text: &str, times: usize| text.repeat(times);
    // Lists in lists, which take no memory and stand for 2^60 texts.
    let doubled = format!("{{% set a=['x'] %}}{}{{{{ a ~ '' }}}}", many("{% set a=[a,a] %}", 60));
    let nested = format!("{}{{{{ a ~ '' }}}}{}", many("{% for a in [[a,a]] %}", 60), many("{% endfor %}", 60));
    for template in [
        &doubled,
        &nested,
        "{{ token * 100000000 }}",
        "{{ 'x' ** 9 }}",
        "{% set a = token %}{{ a }}",
        "{% with a = token %}{{ a }}{% endwith %}",
        "{% filter b64encode %}a{% endfilter %}",
        "{% autoescape true %}{% endautoescape %}",
        "{% include 'a' %}",
        "{% macro a() %}{% endmacro %}",
        "{{ [token, token] }}",
        "{{ {'a': token} }}",
        "{{ token[:3] }}",
        "{{ range(9) }}",
        &format!("{{{{ {}1 }}}}", many("1 ~ ", 400)),
        &format!("{}{}", many("{% if 1 %}", 100), many("{% endif %}", 100)),
        &format!("{{{{ token{} }}}}", many("|b64encode", 60)),
        &format!("{{{{ token{} }}}}", many("|tojson", 30)),
        &format!("{}{}{}", many("{% for a in repositories %}", 20), many("x", 100), many("{% endfor %}", 20)),
    ] {
        problem(template);
    }
    let long = many("{% for a in repositories %}", 8) + &many("x", 300) + &many("{% endfor %}", 8);
    assert!(problem(&long).message.contains("more than 64 KiB"), "{long}");
}
