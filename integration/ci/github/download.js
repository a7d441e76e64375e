// The program, from its release.

import { createHash } from "node:crypto";
import * as fs from "node:fs/promises";
import * as path from "node:path";
import { setTimeout } from "node:timers/promises";
import { Wrong, input } from "./job.js";

const attempts = 3;

// download puts larder where file says. What is not, byte for byte, what was released is never put there.
export async function download(file) {
  const { url, sha256 } = await source();
  let program;
  for (let n = 1; ; n++) {
    try {
      const response = await fetch(url, { signal: AbortSignal.timeout(120_000) });
      if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
      program = Buffer.from(await response.arrayBuffer());
      break;
    } catch (err) {
      if (n === attempts) throw new Error(`download ${url}: ${err.cause?.message ?? err.message}`);
      await setTimeout(1000 * n);
    }
  }
  const got = createHash("sha256").update(program).digest("hex");
  if (got !== sha256) throw new Wrong(`download ${url}: SHA-256 is ${got}, want ${sha256}`);
  await fs.mkdir(path.dirname(file), { recursive: true });
  await fs.writeFile(file, program, { mode: 0o755 });
}

// source says where the program is, and what its hash is.
async function source() {
  const [url, sha256] = [input("url"), input("sha256").toLowerCase()];
  if (url || sha256) {
    if (!url || !sha256) throw new Wrong("url and sha256 belong together");
    return { url, sha256 };
  }
  const release = JSON.parse(await fs.readFile(new URL("release.json", import.meta.url), "utf8"));
  const arch = { X64: "amd64", ARM64: "arm64" }[process.env.RUNNER_ARCH];
  if (!arch) throw new Error(`there is no larder for ${process.env.RUNNER_ARCH}`);
  return { url: `${release.url}/larder-linux-${arch}`, sha256: release.sha256[arch] };
}
