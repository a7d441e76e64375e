// What both scripts have to do with the runner: inputs, what is kept between them, and calls of larder.
//
// The files and commands are those of
// https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import * as fs from "node:fs";

// run runs a script. What is wrong with the cache is no reason for the job to fail, unless the user wants that.
// A wrong input, or a program that is not the one that was released, is.
export async function run(script) {
  try {
    await script();
  } catch (err) {
    const fails = strict() || err instanceof Wrong;
    command(fails ? "error" : "warning", err.message);
    if (fails) process.exitCode = 1;
  }
}

// A Wrong is an error that the user has to see to.
export class Wrong extends Error {}

export function input(name) {
  return (process.env[`INPUT_${name.toUpperCase()}`] ?? "").trim();
}

export const list = (name) => input(name).split(/\s+/).filter(Boolean);

export const strict = () => input("strict") === "true";

// readOnly tells whether nothing is to be written. What a job writes that trusts a key but can't sign, nobody would
// use: so it is with forks.
export function readOnly() {
  return input("read-only") === "true" || (input("trusted-public-key") !== "" && input("signing-key") === "");
}

// keyPrefix returns what the keys of this job's caches begin with. No name's prefix is the beginning of another's.
export function keyPrefix() {
  const name = input("name");
  if (!/^[A-Za-z0-9_-]*$/.test(name)) throw new Wrong(`name ${JSON.stringify(name)}: only letters, digits, - and _ are allowed`);
  const prefix = `larder-${process.env.RUNNER_OS}-${process.env.RUNNER_ARCH}`;
  return name ? `${prefix}.${name}.` : `${prefix}-`;
}

// contentKey returns what changes with the cache's contents, and only with them.
export async function contentKey(larder, cache) {
  return (await call(larder, ["list", "--key", "--cache", cache])).trim();
}

// cacheService returns GitHub's own client of its cache, or null if there is no cache here.
export async function cacheService() {
  const service = await import("./cache.js").catch((err) => {
    throw new Error(`this copy of the action has no cache.js, which the script bundle makes: ${err.message}`);
  });
  if (service.isFeatureAvailable()) return service;
  say("this runner has no cache service: nothing is restored or saved");
  return null;
}

// call calls larder, and returns its standard output. It alone is given the keys: what is in the job's environment,
// every step could read.
export function call(program, args) {
  const env = { ...process.env };
  if (input("signing-key")) env.LARDER_SIGNING_KEY = input("signing-key");
  if (input("trusted-public-key")) env.LARDER_TRUSTED_PUBLIC_KEY = input("trusted-public-key");
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env, stdio: ["ignore", "pipe", "inherit"] });
    let stdout = "";
    child.stdout.setEncoding("utf8").on("data", (text) => (stdout += text));
    child.on("error", reject);
    child.on("close", (code, signal) => {
      if (code === 0) resolve(stdout);
      else reject(new (code === 2 ? Wrong : Error)(`larder ${args[0]}: ${signal ?? `exit ${code}`}`)); // 2: the command line
    });
  });
}

export const say = (text) => console.log(`larder: ${text}`);

export const mask = (secret) => command("add-mask", secret);

export const state = (name) => process.env[`STATE_${name}`] ?? "";

export const setState = (name, value) => append("GITHUB_STATE", name, value);

export const setOutput = (name, value) => append("GITHUB_OUTPUT", name, value);

export const addPath = (dir) => fs.appendFileSync(process.env.GITHUB_PATH, `${dir}\n`);

function append(file, name, value) {
  const end = `larder-${randomUUID()}`;
  fs.appendFileSync(process.env[file], `${name}<<${end}\n${value}\n${end}\n`);
}

function command(name, text) {
  const title = name === "add-mask" ? "" : " title=larder";
  console.log(`::${name}${title}::${text.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A")}`);
}
