"""What an App does with PyGithub against the GitHub it is given. Prints what it saw as JSON; fails if a call fails.

In the environment: API_URL, APP_ID, APP_KEY_FILE. The authority to trust is requests' affair (REQUESTS_CA_BUNDLE) and
git's (GIT_SSL_CAINFO).
"""

import base64
import json
import os
import pathlib
import subprocess
import tempfile

from github import Auth, Github, GithubException, GithubIntegration

API_URL = os.environ["API_URL"]
seen = {}

key = pathlib.Path(os.environ["APP_KEY_FILE"]).read_text()
app = GithubIntegration(auth=Auth.AppAuth(int(os.environ["APP_ID"]), key), base_url=API_URL)
self = app.get_app()
seen["app"] = {"id": self.id, "slug": self.slug}
installations = list(app.get_installations())
seen["installations"] = [{"id": found.id, "account": found.account.login} for found in installations]

# PyGithub narrows a token by permissions only.
wish = {"contents": "write", "pull_requests": "write", "repository_hooks": "write"}
minted = app.get_access_token(installations[0].id, permissions=wish)
seen["token"] = {"length": len(minted.token), "permissions": minted.permissions}
github = Github(auth=Auth.Token(minted.token), base_url=API_URL)

owner = installations[0].account.login
by_name = github.get_repo(f"{owner}/shop")
by_id = github.get_repo(by_name.id)
seen["repository"] = {"byName": by_name.full_name, "byId": by_id.full_name}
try:
    by_name.edit(description="x")
    seen["refused"] = None
except GithubException as refused:
    seen["refused"] = {"status": refused.status, "message": refused.data["message"]}

config = {"url": "http://127.0.0.1:9/pygithub", "content_type": "json", "secret": "a secret"}
hook = by_name.create_hook("web", config, ["push"], active=True)
hooks = by_name.get_hooks()
seen["hooks"] = [{"id": one.id, "url": one.config["url"], "secret": one.config["secret"]} for one in hooks]
seen["hook"] = hook.id

# A branch by the API, a commit on it by git.
main = by_name.get_branch(by_name.default_branch)
by_name.create_git_ref("refs/heads/by-pygithub", main.commit.sha)
basic = base64.b64encode(f"x-access-token:{minted.token}".encode()).decode()
# By the environment, for arguments can be read by others.
environment = os.environ | {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "http.extraHeader",
    "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
}
with tempfile.TemporaryDirectory() as folder:

    def git(*arguments):
        command = ["git", "-c", "user.name=P", "-c", "user.email=p@example.com", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    git("clone", "-q", "-b", "by-pygithub", by_name.clone_url, ".")
    pathlib.Path(folder, "pygithub.txt").write_text("by PyGithub\n")
    git("add", "pygithub.txt")
    git("commit", "-q", "-m", "Add a file")
    git("push", "-q", "origin", "by-pygithub")
    sha = git("rev-parse", "HEAD").strip()

pull = by_name.create_pull(
    title="By PyGithub", body="", head="by-pygithub", base=by_name.default_branch, draft=True
)
before = pull.draft
pull.mark_ready_for_review()
seen["pull"] = {
    "number": pull.number,
    "draft": before,
    "pushed": pull.head.sha == sha,
    "draftAfter": by_name.get_pull(pull.number).draft,
    "open": by_name.get_pulls().totalCount,
}
print(json.dumps(seen))
