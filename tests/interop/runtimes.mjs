// The JavaScript side of test_runtimes.py, for Deno and Bun: one client over each transport, and what it publishes.
//   runtimes.mjs <client's file> <WebSocket's address> <API's address>
const [file, ws, api] = globalThis.Deno?.args ?? process.argv.slice(2);
const { APIClient, WSClient } = await import(file);

for (const [transport, options] of [["websocket", { sse: false }], ["sse", { WebSocket: undefined }]]) {
  const client = new WSClient(ws, options);
  const subscription = client.subscribe({ kind: "news", transport });
  await subscription.subscribe();
  const sent = [{ title: "é?😀\u2028" }, null, "x".repeat(200_000)];
  const received = [];
  const all = new Promise((resolve) => subscription.on("payload", (each) => received.push(each) === sent.length && resolve()));
  const publisher = new APIClient(api);
  for (const payload of sent) await publisher.publish({ kind: "news", transport }, payload);
  await all;
  const ended = new Promise((resolve) => client.on("disconnect", resolve));
  console.log(JSON.stringify({ transport: client.transport, same: JSON.stringify(received) === JSON.stringify(sent) }));
  client.close();
  await ended;
}
