// Makes bundle.js of bundled.mjs with the tool that is named. Where the entry can be read as it is, the client is read by
// the tool itself, with no loader between.
const path = require("node:path");
const fs = require("node:fs");

const entry = path.resolve("entry.js");
fs.copyFileSync("bundled.mjs", entry);
const out = path.resolve("bundle.js");

const tools = {
  webpack() {
    const webpack = require("webpack");
    const target = process.argv[3];
    const options = { entry, target, mode: "production", output: { path: path.dirname(out), filename: path.basename(out) } };
    return new Promise((resolve, reject) => {
      webpack(options, (error, stats) => {
        if (error) reject(error);
        else if (stats.hasErrors() || stats.hasWarnings()) reject(new Error(stats.toString()));
        else resolve();
      });
    });
  },
  async parcel() {
    const { Parcel } = require("@parcel/core");
    await new Parcel({
      entries: entry,
      defaultConfig: "@parcel/config-default",
      shouldDisableCache: true,
      mode: "production",
      targets: { main: { distDir: path.dirname(out), distEntry: "bundle.js", context: "browser", sourceMap: false, engines: { browsers: "chrome 90" } } },
    }).run();
  },
  async metro() {
    const metro = require("metro");
    const config = await metro.loadConfig({ cwd: process.cwd() }, {
      resetCache: true,
      cacheStores: [],
      maxWorkers: 1,
      resolver: { unstable_enablePackageExports: process.argv[3] === "exports", useWatchman: false },
      transformer: { babelTransformerPath: require.resolve("@react-native/metro-babel-transformer") },
      reporter: { update() {} },
    });
    await metro.runBuild(config, { entry, out, dev: false, minify: false });
  },
  async eslint() {
    const { ESLint } = require("eslint");
    const rules = Object.fromEntries(["no-unresolved", "named", "namespace", "default", "export"].map((name) => [`import/${name}`, "error"]));
    const overrideConfig = {
      root: true,
      plugins: ["import"],
      settings: { "import/ignore": [] }, // packages are looked into, too
      parserOptions: { ecmaVersion: 2022, sourceType: "module" },
      rules,
    };
    const eslint = new ESLint({ useEslintrc: false, overrideConfig, cwd: process.cwd() });
    const wrong = 'import { Nothing } from "realizehit";\nimport "realizehit/nothing";\nNothing();\n';
    const found = [await eslint.lintFiles([entry]), await eslint.lintText(wrong, { filePath: path.resolve("wrong.js") })];
    console.log(JSON.stringify(found.map(([{ messages }]) => messages.map(({ ruleId, message }) => `${ruleId}: ${message}`))));
  },
};

tools[process.argv[2]]().catch((error) => {
  console.error(error.diagnostics ? JSON.stringify(error.diagnostics, null, 1) : error);
  process.exit(1);
});
