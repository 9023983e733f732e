// How the file that servers serve is minified: esbuild renames the internal properties, and Terser's output compresses better.
import { build } from "esbuild";
import { minify as compact } from "terser";

const LETTERS = "gaiplhqdexvrnysokmucwjtfzb"; // in the order that compresses best, found by trying
const PUBLIC_CLASS = /^(?:export )?class (?:Emitter|Subscription|WSClient)\b.*?^}/gms;

/**
 * Return the minified module that exports some names of `realizehit.js`.
 *
 * @param {string} source the text of `realizehit.js`.
 * @param {string} folder the folder of `realizehit.js`.
 * @param {string} names such as `WSClient, APIClient`; what these do not need is left out.
 */
export async function minify(source, folder, names) {
  const stdin = { contents: `export { ${names} } from "./realizehit.js";`, resolveDir: folder };
  const { outputFiles } = await build({ stdin, bundle: true, format: "esm", write: false, ...minifying(source) });
  // No getter of the source has a side effect.
  return /** @type {string} */ ((await compact(outputFiles[0].text, { module: true, ecma: 2020, compress: { passes: 2, inline: 1, pure_getters: true } })).code);
}

/**
 * Return esbuild's options. Names that begin with `_` are internal and become short. Those of clients and subscriptions keep
 * the `_`, so that they differ from properties that a program adds to these objects.
 *
 * @param {string} source the text of `realizehit.js`.
 * @returns {Pick<import("esbuild").TransformOptions, "minify" | "target" | "legalComments" | "mangleProps" | "mangleCache">}
 * @throws {Error} there are more names than letters.
 */
function minifying(source) {
  const classes = (source.match(PUBLIC_CLASS) ?? []).join("\n");
  const names = [...new Set([...classes.matchAll(/^  (_\w+)/gm)].map(([, name]) => name))];
  if (!names.length || names.length > LETTERS.length) throw new Error(`${names.length} internal names of public classes`);
  return {
    minify: true,
    target: "es2022",
    legalComments: "none",
    mangleProps: /^_/,
    mangleCache: Object.fromEntries(names.map((name, at) => [name, `_${LETTERS[at]}`])),
  };
}
