// Makes what is not written by hand: types, what the server gives out, and builds for tools that cannot read the sources.
// All of it is in the repository, so that a checkout needs no build; `--check` fails where it is not what the sources make.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { transform } from "esbuild";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const read = (/** @type {string} */ name) => readFileSync(join(ROOT, name), "utf8");
const { version } = JSON.parse(read("package.json"));

/** What each made file holds, by its name. */
async function make() {
  const made = new Map([["lib/cjs/package.json", '{ "type": "commonjs" }\n']]);
  const types = mkdtempSync(join(tmpdir(), "realizehit-types-"));
  try {
    execFileSync(join(ROOT, "node_modules/.bin/tsc"), ["-p", ROOT, "--outDir", types], { stdio: "inherit" });
    for (const name of ["realizehit", "pattern"]) {
      const source = read(`${name}.js`);
      const hash = createHash("sha256").update(source).digest("hex").slice(0, 16);
      const banner = `/*! realizehit ${version}, MIT; made of ${name}.js, ${hash} */`;
      /** @param {import("esbuild").TransformOptions} options */
      const built = async (options) => {
        const { code } = await transform(source, { banner, charset: "utf8", legalComments: "none", ...options });
        return code;
      };
      const declared = `${banner}\n${readFileSync(join(types, `${name}.d.ts`), "utf8")}`;
      made.set(`${name}.d.ts`, declared);
      made.set(`lib/cjs/${name}.d.ts`, declared); // to TypeScript a declaration is of the kind of its nearest package.json
      made.set(`lib/cjs/${name}.js`, await built({ format: "cjs", target: "es2018" }));
      if (name === "pattern") continue; // its source is plain enough
      made.set(`lib/esm/${name}.js`, await built({ format: "esm", target: "es2018" }));
      made.set(`lib/${name}.min.js`, await built({ format: "esm", target: "es2022", minify: true }));
    }
  } finally {
    rmSync(types, { recursive: true });
  }
  return made;
}

const made = await make();
if (process.argv.includes("--check")) {
  const old = [...made].filter(([name, text]) => {
    try {
      return read(name) !== text;
    } catch {
      return true;
    }
  });
  if (old.length) {
    console.error(`not what the sources make, run \`npm run build\`: ${old.map(([name]) => name).join(", ")}`);
    process.exit(1);
  }
} else {
  for (const [name, text] of made) {
    mkdirSync(dirname(join(ROOT, name)), { recursive: true });
    writeFileSync(join(ROOT, name), text);
  }
}
