// serve answers requests, one JSON object a line, with what ops[request.op]
// returns and how long that took, or with an error. Byte strings are base64.
import { createInterface } from "node:readline";

export const bytes = (b64) => new Uint8Array(Buffer.from(b64 ?? "", "base64"));

const encode = (_, v) => (v instanceof Uint8Array ? Buffer.from(v).toString("base64") : v);

export async function serve(ops) {
  for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
      const request = JSON.parse(line);
      const start = performance.now();
      answer = (await ops[request.op](request)) ?? {};
      answer.milliseconds = performance.now() - start;
    } catch (e) {
      answer = { error: `${e?.name ?? "Error"}: ${e?.message ?? e} ${JSON.stringify(e?.inner ?? "")}` };
    }
    process.stdout.write(JSON.stringify(answer, encode) + "\n");
  }
}
