// Fails if the subscriber, minified and compressed, is larger than the documentation says.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

import { minifying } from "./minify.js";

const MAX_SIZE = 5632; // bytes
const source = readFileSync(new URL("../realizehit.js", import.meta.url), "utf8");

/** @param {string} names */
async function size(names) {
  const { outputFiles } = await build({
    stdin: { contents: `export { ${names} } from "./realizehit.js";`, resolveDir: new URL("..", import.meta.url).pathname },
    bundle: true,
    format: "esm",
    write: false,
    ...minifying(source),
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

const subscriber = await size("WSClient");
console.log(`the subscriber: ${subscriber} bytes of at most ${MAX_SIZE}; with APIClient: ${await size("WSClient, APIClient")}`);
if (subscriber > MAX_SIZE) process.exit(1);
