// Joins the modules of `src/` into one file: each module after those that it imports, without the imports.
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";

const IMPORT = /^import \{ (.*) \} from "(\..*)";\n/gm;
const TYPE_IMPORT = /^\/\*\* @import \{.*\} from ".*" \*\/\n/gm;
const PUBLIC = /^export \{ (.*) \} from "(\..*)";\n?/gm;

/**
 * Return the text of one module with what the entry module exports. A top-level name must not occur in two modules, and every
 * import is `import { … } from "./….js"` on one line.
 *
 * @param {string} entry the path of the module that exports everything public by `export { … } from "./….js"`.
 * @param {Map<string, string>} [kept] modules that stay imports: the path of each, and where the joined file imports it from.
 * @returns {{text: string, sources: string[]}} the joined text, and the texts of the modules.
 * @throws {Error} a module has an import or export of another form.
 */
export function join(entry, kept = new Map()) {
  const main = readFileSync(entry, "utf8");
  const exported = new Set([...main.matchAll(PUBLIC)].flatMap(([, names]) => names.split(", ")));
  const parts = [main.replace(PUBLIC, "")];
  const sources = [main];
  const visited = new Set();
  /** @type {Map<string, Set<string>>} */
  const imports = new Map();
  /** @type {string[]} */
  const exports = [];

  /** @param {string} from @param {string} names */
  const keep = (from, names) => imports.set(from, new Set([...(imports.get(from) ?? []), ...names.split(", ")]));

  /** @param {string} path */
  const add = (path) => {
    if (visited.has(path)) return;
    visited.add(path);
    const source = readFileSync(path, "utf8");
    sources.push(source);
    for (const [, names, other] of source.matchAll(IMPORT)) {
      const target = resolve(dirname(path), other);
      const from = kept.get(target);
      if (from === undefined) add(target);
      else keep(from, names);
    }
    const text = source
      .replace(IMPORT, "")
      .replace(TYPE_IMPORT, "")
      .replace(/^export ((?:async )?(?:class|const|function) (\w+))/gm, (all, rest, name) => (exported.has(name) ? all : rest));
    const odd = /^(?:import\b|export (?!class|const|function|async function)).*|@import .*/m.exec(text);
    if (odd) throw new Error(`${path}: the build cannot join ${odd[0]}`);
    parts.push(text.trim());
  };
  for (const [, names, path] of main.matchAll(PUBLIC)) {
    const target = resolve(dirname(entry), path);
    const from = kept.get(target);
    if (from === undefined) {
      add(target);
    } else {
      keep(from, names);
      exports.push(`export { ${names} };`);
    }
  }
  const imported = [...imports].map(([from, names]) => `import { ${[...names].join(", ")} } from "${from}";`);
  if (imported.length + exports.length) parts.splice(1, 0, [...imported, ...exports].join("\n"));
  return { text: `${parts.map((part) => part.trim()).join("\n\n")}\n`, sources };
}
