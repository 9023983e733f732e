// Fails if the subscriber, minified and compressed, is larger than the documentation says.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { minify } from "./minify.js";

const MAX_SIZE = 5568; // bytes
const folder = fileURLToPath(new URL("..", import.meta.url));
const source = readFileSync(`${folder}/realizehit.js`, "utf8");

/** @param {string} names */
const size = async (names) => gzipSync(await minify(source, folder, names), { level: 9 }).length;

const subscriber = await size("WSClient");
console.log(`the subscriber: ${subscriber} bytes of at most ${MAX_SIZE}; with APIClient: ${await size("WSClient, APIClient")}`);
if (subscriber > MAX_SIZE) process.exit(1);
