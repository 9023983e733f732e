// The JavaScript side of test_eventsource.py: EventSources of the package, which keeps to the standard.
//   node eventsource.mjs <address of the events> <how many>
// It says {"subscribed": n} each time one more is, again after each end, {"ended": n} for each
// end or attempt that failed, {"dead": …} for one that does not come back, and {"payload": …, "at": n}
// when n of them have it.
import { EventSource } from "eventsource";

const [url, count] = process.argv.slice(2);
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const had = new Map();
let subscribed = 0;
let ended = 0;

for (let n = 0; n < +count; n++) {
  const source = new EventSource(url);
  source.addEventListener("subscribed", () => say({ subscribed: ++subscribed }));
  source.onmessage = ({ data }) => {
    had.set(data, (had.get(data) ?? 0) + 1);
    say({ payload: data, at: had.get(data) });
  };
  source.onerror = ({ code, message }) => {
    say(source.readyState === EventSource.CLOSED ? { dead: `${code} ${message}` } : { ended: ++ended });
  };
}
process.stdin.resume().on("end", () => process.exit());
