// Builds what is not written by hand: `realizehit.js` and `api.js` of `src/`, types, the file that servers serve, and builds for tools that
// cannot read the sources. All of it is in the repository, so that a checkout needs no build; `--check` fails if the
// repository has something else than the sources make.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { transform } from "esbuild";

import { join as joinModules } from "./join.js";
import { minify } from "./minify.js";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const read = (/** @type {string} */ name) => readFileSync(join(ROOT, name), "utf8");
const { version } = JSON.parse(read("package.json"));

/** @param {string[]} texts */
const hashOf = (...texts) => createHash("sha256").update(texts.join("")).digest("hex").slice(0, 16);

const RETAINED = new Map([[join(ROOT, "src/error.js"), "./realizehit.js"]]); // one class for `instanceof` in both files

/** Return the files that are joined of modules, by name. */
function joined() {
  /** @param {string} folder @param {{text: string, sources: string[]}} parts */
  const withBanner = (folder, { text, sources }) =>
    `/*! realizehit ${version}, MIT; joined of ${folder}, ${hashOf(...sources.sort())} */\n${text}`;
  return new Map([
    ["realizehit.js", withBanner("src/", joinModules(join(ROOT, "src/realizehit.js")))],
    ["api.js", withBanner("src/api/", joinModules(join(ROOT, "src/api/index.js"), RETAINED))],
  ]);
}

const COMMENT = String.raw`/\*\*(?:(?!\*/)[^])*\*/\n`;
const INTERNAL_COMMENT = String.raw`/\*\*(?:(?!\*/)[^])*@internal(?:(?!\*/)[^])*\*/\n`;

/** Remove what is internal from declarations; TypeScript's own option for that leaves JavaScript sources alone. @param {string} text */
const withoutInternals = (text) =>
  text
    .replace(new RegExp(`^${INTERNAL_COMMENT}declare class [^]*?\n}\n`, "gm"), "")
    .replace(new RegExp(`^    (?:${COMMENT}    )?_\\w[^]*?;\n(?=    [^\\s}]|})`, "gm"), "");

/** Return what each file holds that is built of `realizehit.js`, `api.js` and `pattern.js`, by its name. */
async function build() {
  const built = new Map([["lib/cjs/package.json", '{ "type": "commonjs" }\n']]);
  const types = mkdtempSync(join(tmpdir(), "realizehit-types-"));
  try {
    execFileSync(join(ROOT, "node_modules/.bin/tsc"), ["-p", ROOT, "--outDir", types], { stdio: "inherit" });
    for (const name of ["realizehit", "api", "pattern"]) {
      const source = read(`${name}.js`);
      const banner = `/*! realizehit ${version}, MIT; made of ${name}.js, ${hashOf(source)} */`;
      /** @param {import("esbuild").TransformOptions} options */
      const code = async (options) =>
        (await transform(source, { banner, charset: "utf8", legalComments: "none", ...options })).code;
      const text = readFileSync(join(types, `${name}.d.ts`), "utf8").replace(/^\/\*!.*\n/, "");
      const declared = `${banner}\n${withoutInternals(text)}`;
      built.set(`${name}.d.ts`, declared);
      built.set(`lib/cjs/${name}.d.ts`, declared); // for TypeScript, the nearest package.json says what kind of module it is
      built.set(`lib/cjs/${name}.js`, await code({ format: "cjs", target: "es2018" }));
      if (name !== "realizehit") continue; // the other modules have no build for old tools, and servers do not serve them
      built.set(`lib/esm/${name}.js`, await code({ format: "esm", target: "es2018" }));
      const names = Array.from(source.matchAll(/^export class (\w+)/gm), ([, each]) => each);
      built.set(`lib/${name}.min.js`, `${banner}\n${await minify(source, ROOT, names.join())}\n`);
    }
  } finally {
    rmSync(types, { recursive: true });
  }
  return built;
}

/** @param {string} name @param {string} text */
const differs = (name, text) => {
  try {
    return read(name) !== text;
  } catch {
    return true;
  }
};

const main = joined();
const check = process.argv.includes("--check");
/** @type {string[]} */
const old = [];
for (const [name, text] of main) {
  if (!check) writeFileSync(join(ROOT, name), text);
  else if (differs(name, text)) old.push(name);
}
for (const [name, text] of await build()) {
  if (check) {
    if (differs(name, text)) old.push(name);
    continue;
  }
  mkdirSync(dirname(join(ROOT, name)), { recursive: true });
  writeFileSync(join(ROOT, name), text);
}
if (old.length) {
  console.error(`not what the sources make, run \`npm run build\`: ${old.join(", ")}`);
  process.exit(1);
}
