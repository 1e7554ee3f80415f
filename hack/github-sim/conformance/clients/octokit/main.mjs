// What an App does with octokit against the GitHub it is given. Prints what it saw as JSON; fails if a call fails.
//
// In the environment: API_URL, APP_ID, APP_KEY_FILE, PACKAGES (the folder of node_modules). The authority to trust is
// Node's affair (NODE_EXTRA_CA_CERTS) and git's (GIT_SSL_CAINFO).
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { API_URL, APP_ID, APP_KEY_FILE, PACKAGES } = process.env;
const packages = createRequire(join(PACKAGES, "package.json"));
const { App, Octokit } = await import(pathToFileURL(packages.resolve("octokit")));

const Ours = Octokit.defaults({ baseUrl: API_URL });
const app = new App({ appId: APP_ID, privateKey: readFileSync(APP_KEY_FILE, "utf8"), Octokit: Ours });
const seen = {};

const { data: self } = await app.octokit.rest.apps.getAuthenticated();
seen.app = { id: self.id, slug: self.slug };
seen.installations = [];
for await (const { installation } of app.eachInstallation.iterator()) {
  seen.installations.push({ id: installation.id, account: installation.account.login });
}

// A token for one repository and three permissions, and what it is refused.
const { token, permissions } = await app.octokit.auth({
  type: "installation",
  installationId: seen.installations[0].id,
  repositoryNames: ["shop"],
  permissions: { contents: "write", pull_requests: "write", repository_hooks: "write" },
});
seen.token = { length: token.length, permissions };
const octokit = new Ours({ auth: token });
const reached = await octokit.paginate(octokit.rest.apps.listReposAccessibleToInstallation);
seen.reached = reached.map((repository) => repository.full_name);
const [owner, repo] = reached[0].full_name.split("/");
seen.refused = await octokit.rest.repos
  .update({ owner, repo, description: "x" })
  .then(() => null, (error) => ({ status: error.status, message: error.response.data.message }));

const { data: byName } = await octokit.rest.repos.get({ owner, repo });
const { data: byId } = await octokit.request("GET /repositories/{id}", { id: byName.id });
seen.repository = { byName: byName.full_name, byId: byId.full_name };

const config = { url: "http://127.0.0.1:9/octokit", content_type: "json", secret: "a secret" };
const { data: hook } = await octokit.rest.repos.createWebhook({ owner, repo, config, events: ["push"] });
const hooks = await octokit.paginate(octokit.rest.repos.listWebhooks, { owner, repo, per_page: 1 });
seen.hooks = hooks.map(({ id, config }) => ({ id, url: config.url, secret: config.secret }));
seen.hook = hook.id;

// A branch by the API, a commit on it by git.
const { data: main } = await octokit.rest.repos.getBranch({ owner, repo, branch: byName.default_branch });
await octokit.rest.git.createRef({ owner, repo, ref: "refs/heads/by-octokit", sha: main.commit.sha });
const folder = mkdtempSync(join(tmpdir(), "octokit-"));
const basic = Buffer.from(`x-access-token:${token}`).toString("base64");
const git = (...args) =>
  execFileSync("git", ["-c", "user.name=O", "-c", "user.email=o@example.com", ...args], {
    cwd: folder,
    // By the environment, for arguments can be read by others.
    env: {
      ...process.env,
      GIT_CONFIG_COUNT: "1",
      GIT_CONFIG_KEY_0: "http.extraHeader",
      GIT_CONFIG_VALUE_0: `Authorization: Basic ${basic}`,
    },
  });
git("clone", "-q", "-b", "by-octokit", byName.clone_url, ".");
writeFileSync(join(folder, "octokit.txt"), "by octokit\n");
git("add", "octokit.txt");
git("commit", "-q", "-m", "Add a file");
git("push", "-q", "origin", "by-octokit");
const sha = git("rev-parse", "HEAD").toString().trim();
rmSync(folder, { recursive: true });

const wish = { owner, repo, title: "By octokit", head: "by-octokit", base: byName.default_branch, draft: true };
const { data: pull } = await octokit.rest.pulls.create(wish);
const ready = `mutation($id: ID!) {
  markPullRequestReadyForReview(input: { pullRequestId: $id }) { pullRequest { isDraft } }
}`;
const marked = await octokit.graphql(ready, { id: pull.node_id });
seen.pull = {
  number: pull.number,
  draft: pull.draft,
  pushed: pull.head.sha === sha,
  draftAfter: marked.markPullRequestReadyForReview.pullRequest.isDraft,
  open: (await octokit.paginate(octokit.rest.pulls.list, { owner, repo })).length,
};
console.log(JSON.stringify(seen));
