import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { channel, id as idOf, matches, PatternError, project, shape } from "realizehit/pattern";

const vectors = JSON.parse(readFileSync(new URL("../../../tests/vectors.json", import.meta.url), "utf8"));
const id = (text) => createHash("md5").update(text).digest("hex").slice(0, 8);

test("the shared vectors", () => {
  assert.ok(vectors.valid.length > 30 && vectors.subscription_only.length && vectors.invalid.length > 10);
  for (const row of vectors.valid) {
    assert.equal(channel(row.in), row.channel);
    assert.equal(idOf(row.in), row.id);
  }
  for (const row of vectors.subscription_only) {
    assert.equal(channel(row.in, { wildcard: true }), row.channel);
    assert.equal(idOf(row.in), row.id);
    assert.throws(() => channel(row.in), { code: "wildcard-unsupported" });
  }
  for (const row of vectors.invalid) {
    assert.throws(() => channel(row.in, { wildcard: true }), { code: "bad-pattern" }, JSON.stringify(row.in));
  }
});

test("the shared vectors of wildcards", () => {
  assert.ok(vectors.wildcards.length > 20);
  for (const row of vectors.wildcards) {
    assert.equal(channel(row.in, { wildcard: true }), row.channel);
    assert.equal(idOf(row.in), row.id);
    assert.equal(shape(row.in), row.shape);
    assert.ok(row.publications.length);
    for (const publication of row.publications) {
      const told = JSON.stringify([row.in, publication.in]);
      assert.equal(channel(publication.in), publication.channel, told);
      assert.equal(project(publication.channel, row.shape), publication.projection, told);
      assert.equal(matches(row.in, publication.in), publication.matches, told);
    }
  }
});

test("ids of channels of every length", () => {
  for (let length = 1; length <= 256; length++) {
    const pattern = { k: "x".repeat(length), z: "~".repeat(256) };
    assert.equal(idOf(pattern), id(channel(pattern)), `${length}`);
  }
  assert.throws(() => idOf({ kind: "" }), PatternError);
});

test("a subscription without * matches only its own pattern", () => {
  assert.ok(matches({ kind: "news", n: 3 }, { n: "3", kind: "news" }));
  assert.ok(!matches({ kind: "news" }, { kind: "news", n: 3 }));
  assert.ok(!matches({ kind: "news", n: 3 }, { kind: "news" }));
  assert.ok(matches({ realizehit: "stats" }, { realizehit: "stats" }));
  assert.equal(shape({ kind: "news", n: 3 }), "kind:=|n:=");
});

test("a publication must not contain a *", () => {
  for (const subscription of [{ kind: "news" }, { "*": "*" }]) {
    assert.throws(() => matches(subscription, { kind: "*" }), { code: "wildcard-unsupported" });
    assert.throws(() => matches(subscription, { kind: "" }), { code: "bad-pattern" });
  }
  assert.throws(() => matches({ "*": 1 }, { kind: "news" }), { code: "bad-pattern" });
  assert.throws(() => shape({}), { code: "bad-pattern" });
});

test("values that JSON cannot represent", () => {
  assert.equal(channel({ n: 2n ** 64n - 1n }), "n:18446744073709551615");
  assert.equal(channel({ n: 2n ** 64n }), "n:18446744073709552000");
  assert.equal(channel({ n: -(2n ** 63n) }), "n:-9223372036854775808");
  for (const value of [NaN, Infinity, undefined, Symbol("s"), () => 1, "\ud800"]) {
    assert.throws(() => channel({ key: value }), (error) => error instanceof PatternError && /"key"/.test(error.message));
  }
  assert.throws(() => channel({ "\udc00": 1 }), PatternError);
});

test("characters that encodeURIComponent does not encode", () => {
  assert.equal(channel({ k: "!*'()-._~" }), "k:%21%2A%27%28%29-._~");
});

test("an error names the filter and the bound", () => {
  assert.throws(() => channel({ city: "é".repeat(100) }), /"city".* has 600 bytes, at most 256/);
});
