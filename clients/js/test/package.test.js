// The npm package.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const here = new URL("../", import.meta.url);
const read = (name) => readFileSync(new URL(name, here), "utf8");

test("the package contains the files of its list, and no others", async () => {
  const words = ["pack", "--dry-run", "--json", "--ignore-scripts"];
  const { stdout } = await run("npm", words, { cwd: here, timeout: 60_000 });
  const text = stdout.slice(stdout.indexOf("["));
  const [{ files }] = JSON.parse(text);
  const names = ["LICENSE", "README.md", "lib/cjs/package.json", "lib/esm/realizehit.js", "package.json"];
  for (const name of ["api", "pattern", "realizehit"]) {
    names.push(`${name}.d.ts`, `${name}.js`, `lib/cjs/${name}.d.ts`, `lib/cjs/${name}.js`);
  }
  assert.deepEqual(files.map(({ path }) => path).sort(), names.sort());
});

test("each file that package.json names exists", () => {
  const { main, module, types, exports } = JSON.parse(read("package.json"));
  const files = (value) => (typeof value === "string" ? [value] : Object.values(value).flatMap(files));
  for (const name of [main, module, types, ...files(exports)]) assert.ok(read(name), name);
});

test("the package can be imported and required", async () => {
  const names = ["APIClient", "RealizehitError", "Subscription", "WSClient"];
  const require = createRequire(import.meta.url);
  assert.deepEqual(Object.keys(await import("realizehit")).sort(), names);
  assert.deepEqual(Object.keys(require("realizehit")).sort(), names);
  assert.deepEqual(Object.keys(await import("../lib/realizehit.min.js")).sort(), names);
  assert.deepEqual(Object.keys(await import("../lib/esm/realizehit.js")).sort(), names);
  assert.equal(require("realizehit/pattern").channel({ b: 1n, a: true }), "a:true|b:1");
  const api = ["APIClient", "APIError", "BadPattern", "Forbidden", "NotAuthenticated", "PublishUnclear", "RateLimited", "RawJSON"];
  api.push("RealizehitError", "TooLarge", "Unavailable");
  for (const [made, main] of [[require("realizehit/api"), require("realizehit")], [await import("realizehit/api"), await import("realizehit")]]) {
    assert.deepEqual(Object.keys(made).sort(), api);
    assert.equal(made.RealizehitError, main.RealizehitError);
  }
  assert.equal(require("realizehit/package.json").name, "realizehit");
});

const USE = `
import { WSClient } from "realizehit";
import { APIClient, RateLimited } from "realizehit/api";
import { channel } from "realizehit/pattern";
export const seconds = (error: RateLimited): number | undefined => error.retryAfter;
export const nodes = async () => (await new APIClient("/").publish({ kind: "news" }, 1)).nodes.toFixed();
export const id: string = channel({ kind: "news" });
export const title = async () => {
  for await (const { title } of new WSClient("/ws").subscribe<{ title: string }>({ kind: "news" })) return title.trim();
};
// @ts-expect-error it has types, it is no any
new WSClient("/ws").nothing();
`;

for (const [kind, extension, ...options] of [
  ["bundler", "ts", "--module", "es2022", "--moduleResolution", "bundler"],
  ["node16", "mts", "--module", "node16"],
  ["node16", "cts", "--module", "node16"],
  ["node10", "ts", "--module", "commonjs", "--moduleResolution", "node10"],
]) {
  test(`TypeScript that resolves like ${kind} finds the types from a .${extension} file`, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "realizehit-types-"));
    t.after(() => rm(directory, { recursive: true }));
    await mkdir(join(directory, "node_modules"));
    await symlink(fileURLToPath(here), join(directory, "node_modules", "realizehit"));
    await writeFile(join(directory, `use.${extension}`), USE);
    const words = ["--noEmit", "--strict", "--target", "es2022", ...options, `use.${extension}`];
    await run(fileURLToPath(new URL("node_modules/.bin/tsc", here)), words, { cwd: directory, timeout: 60_000 }).catch(
      ({ stdout }) => assert.fail(stdout),
    );
  });
}

test("the package has no dependencies", () => {
  const { dependencies, version } = JSON.parse(read("package.json"));
  assert.equal(dependencies, undefined);
  assert.equal(JSON.parse(read("package-lock.json")).version, version);
  for (const name of ["realizehit.js", "pattern.js"]) assert.doesNotMatch(read(name), /^\s*import |\bimport\(/m);
});

test("the licence is that of the project", () => assert.equal(read("LICENSE"), read("../../LICENSE")));
