// How the file that servers serve is minified.
const LETTERS = "tseirnoalcdhupmbfgvwkyxqjz";
const PUBLIC_CLASS = /^(?:export )?class (?:Emitter|Subscription|WSClient)\b.*?^}/gms;

/**
 * Return esbuild's options. Names that begin with `_` are internal and become short. Those of clients and subscriptions keep
 * the `_`, so that they differ from properties that a program adds to these objects.
 *
 * @param {string} source the text of `realizehit.js`.
 * @returns {Pick<import("esbuild").TransformOptions, "minify" | "target" | "legalComments" | "mangleProps" | "mangleCache">}
 * @throws {Error} there are more names than letters.
 */
export function minifying(source) {
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
