// After all steps: larder stop, and the cache is saved if there is something new in it.

import * as job from "./job.js";

await job.run(async () => {
  const larder = job.state("larder");
  if (!larder) return; // main.js did not come that far, and has said why
  const cache = job.state("cache");
  const flags = ["--cache", cache, "--deadline", job.input("deadline"), "--restore-time", job.state("restore-time")];
  let failed;
  try {
    await job.call(larder, ["stop", ...flags, ...(job.strict() ? ["--strict"] : [])]);
  } catch (err) {
    failed = err; // what did come into the cache is worth saving all the same
  }
  await save(larder, cache);
  if (failed) throw failed;
});

async function save(larder, cache) {
  if (job.readOnly()) return;
  const key = await job.contentKey(larder, cache);
  if (key === job.state("key")) {
    job.say("nothing new: the cache is not saved again");
    return;
  }
  const service = await job.cacheService();
  // It has warned itself if it could not; another job may also just have saved the same.
  if (service) await service.saveCache([cache], job.keyPrefix() + key);
}
