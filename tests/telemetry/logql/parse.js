// Reads queries, a JSON array, and prints those that Grafana's LogQL grammar does not take.
import { readFileSync } from "node:fs";
import { parser } from "@grafana/lezer-logql";

const queries = JSON.parse(readFileSync(0, "utf8"));
const refused = queries.filter((query) => {
  let wrong = false;
  parser.parse(query).iterate({
    enter: (node) => {
      wrong ||= node.type.isError;
    },
  });
  return wrong;
});
process.stdout.write(JSON.stringify(refused));
