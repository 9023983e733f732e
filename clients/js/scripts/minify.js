// How the file that servers serve is minified.
const LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/**
 * Return esbuild's options. Names that begin with `_` are internal and become short; they keep the `_`, so that they differ from
 * properties that a program adds to a client or a subscription.
 *
 * @param {string} source
 * @returns {Pick<import("esbuild").TransformOptions, "minify" | "target" | "legalComments" | "mangleProps" | "mangleCache">}
 * @throws {Error} there are more names than letters.
 */
export function minifying(source) {
  const count = new Map();
  for (const [name] of source.matchAll(/(?<![\w$])_[A-Za-z]\w*/g)) count.set(name, (count.get(name) ?? 0) + 1);
  const names = [...count.keys()].sort((one, other) => count.get(other) - count.get(one) || (one < other ? -1 : 1));
  if (names.length > LETTERS.length) throw new Error(`${names.length} internal names, but ${LETTERS.length} letters`);
  return {
    minify: true,
    target: "es2022",
    legalComments: "none",
    mangleProps: /^_/,
    mangleCache: Object.fromEntries(names.map((name, at) => [name, `_${LETTERS[at]}`])),
  };
}
