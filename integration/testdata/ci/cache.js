// What @actions/cache does, with a directory in place of GitHub's service: keys, prefixes, the newest first, archives
// that are found only by the path that they were made from, and GNU tar called as the original calls it.

import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";

const service = process.env.FAKE_CACHE_SERVICE;

export const isFeatureAvailable = () => Boolean(service);

const version = (paths) => Buffer.from(paths.join("\n")).toString("hex");

export async function restoreCache(paths, primaryKey, restoreKeys) {
  const keys = fs.readdirSync(service).filter((key) => fs.existsSync(path.join(service, key, version(paths))));
  keys.sort((a, b) => fs.statSync(path.join(service, b)).mtimeMs - fs.statSync(path.join(service, a)).mtimeMs);
  const key = keys.find((key) => key === primaryKey) ?? keys.find((key) => restoreKeys.some((prefix) => key.startsWith(prefix)));
  if (!key) return undefined;
  execFileSync("tar", ["-xf", path.join(service, key, version(paths)), "-P", "-C", process.env.GITHUB_WORKSPACE]);
  return key;
}

export async function saveCache(paths, key) {
  const dir = path.join(service, key);
  if (fs.existsSync(dir)) {
    console.log(`Failed to save: Unable to reserve cache with key ${key}`);
    return -1;
  }
  fs.mkdirSync(dir);
  execFileSync("tar", ["--posix", "-cf", path.join(dir, version(paths)), "-P", "-C", process.env.GITHUB_WORKSPACE, ...paths]);
  return 1;
}
