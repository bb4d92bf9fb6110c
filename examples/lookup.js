// Look a gain up in a gainreg table: node lookup.js TABLE NAME [STD] [param=value …]
// Needs js-yaml (npm install js-yaml). Prints the entry as JSON.
const { readFileSync } = require("node:fs");
const { load } = require("js-yaml");

function lookup(table, name, std = 1, params = {}) {
  for (const [canonical, listing] of Object.entries(table.activations)) {
    if (canonical !== name && !listing.aliases.includes(name)) continue;
    const wanted = { ...listing.params, ...params }; // the defaults, then what is given
    const same = (entry) =>
      entry.std === std && Object.keys(wanted).every((key) => entry.params[key] === wanted[key]);
    const found = listing.entries.find(same);
    if (found) return found;
  }
  throw new Error(`the table has no ${name} at std ${std} with ${JSON.stringify(params)}`);
}

const [path, name, std = "1", ...pairs] = process.argv.slice(2);
const params = Object.fromEntries(pairs.map((p) => p.split("=")).map(([k, v]) => [k, Number(v)]));
console.log(JSON.stringify(lookup(load(readFileSync(path, "utf8")), name, Number(std), params)));
