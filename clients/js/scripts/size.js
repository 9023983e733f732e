// Fails where the subscriber, minified and compressed, is larger than what is promised.
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const MOST = 5632; // bytes

/** @param {string} names */
async function size(names) {
  const { outputFiles } = await build({
    stdin: { contents: `export { ${names} } from "./realizehit.js";`, resolveDir: new URL("..", import.meta.url).pathname },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "none",
    write: false,
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

const subscriber = await size("WSClient");
console.log(`the subscriber: ${subscriber} bytes of at most ${MOST}; with APIClient: ${await size("WSClient, APIClient")}`);
if (subscriber > MOST) process.exit(1);
