// Before the steps that follow: larder itself, the cache as it was saved last, and larder start.

import * as fs from "node:fs/promises";
import * as path from "node:path";
import * as job from "./job.js";
import { download } from "./download.js";

await job.run(async () => {
  if (process.platform !== "linux") throw new Error(`there is no larder for ${process.platform}`);
  const signingKey = job.input("signing-key");
  // GitHub masks its own secrets, but the key may come from elsewhere; and its second half is the secret.
  if (signingKey) [signingKey, signingKey.slice(signingKey.indexOf(":") + 1)].forEach(job.mask);
  const prefix = job.keyPrefix(); // a wrong name is told of before anything is done

  const temp = process.env.RUNNER_TEMP;
  const larder = path.join(temp, "larder", "larder");
  await download(larder);
  job.addPath(path.dirname(larder));

  // The same directory in every job: GitHub finds a cache only by the path that it was saved from.
  const cache = path.join(temp, "larder-cache");
  const begin = Date.now();
  const restored = await restore(cache, prefix);
  job.setOutput("restored-key", restored);
  job.setState("larder", larder);
  job.setState("cache", cache);
  job.setState("restore-time", `${Date.now() - begin}ms`);
  if (restored) job.setState("key", await job.contentKey(larder, cache));

  const flags = [
    ...job.list("skip-signed-by").flatMap((key) => ["--skip-signed-by", key]),
    ...(job.readOnly() ? ["--read-only"] : []),
    ...job.list("flags"),
  ];
  // What it prints is for a shell, and may have tokens of an earlier NIX_CONFIG in it; the steps have it
  // from GITHUB_ENV.
  await job.call(larder, ["start", "--cache", cache, ...flags]);
});

// restore fetches the newest cache that this job may see. It returns its key, or "".
async function restore(cache, prefix) {
  const service = await job.cacheService();
  if (!service) return "";
  await fs.rm(cache, { recursive: true, force: true });
  // No cache has the prefix itself as its key, so this finds the newest that begins with it.
  const key = await service.restoreCache([cache], prefix, [prefix]);
  if (key) return key;
  // An archive that could be read only in part would be a cache that is not whole.
  await fs.rm(cache, { recursive: true, force: true });
  return "";
}
