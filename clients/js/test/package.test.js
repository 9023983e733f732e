// What is published as the package.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { promisify } from "node:util";

const here = new URL("../", import.meta.url);
const read = (name) => readFileSync(new URL(name, here), "utf8");

test("it carries what it names, and nothing else", async () => {
  const { stdout } = await promisify(execFile)("npm", ["pack", "--dry-run", "--json"], { cwd: here, timeout: 60_000 });
  const text = stdout.slice(stdout.indexOf("["));
  const [{ files }] = JSON.parse(text);
  const names = ["LICENSE", "README.md", "package.json", "pattern.js", "realizehit.js"];
  assert.deepEqual(files.map(({ path }) => path).sort(), [...names, "types/pattern.d.ts", "types/realizehit.d.ts"].sort());
});

test("it depends on nothing", () => {
  const { dependencies, version } = JSON.parse(read("package.json"));
  assert.equal(dependencies, undefined);
  assert.equal(JSON.parse(read("package-lock.json")).version, version);
  for (const name of ["realizehit.js", "pattern.js"]) assert.doesNotMatch(read(name), /^\s*import |\bimport\(/m);
});

test("its licence is the project's", () => assert.equal(read("LICENSE"), read("../../LICENSE")));
