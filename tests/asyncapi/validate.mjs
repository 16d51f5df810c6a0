// Reads an array of AsyncAPI documents from standard input; prints for each what the official parser has to say.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const complaints = [];
for (const document of JSON.parse(readFileSync(0, "utf8"))) {
  const { diagnostics } = await new Parser().parse(JSON.stringify(document));
  complaints.push(diagnostics.map(({ code, message, path }) => `${code} at ${path.join(".")}: ${message}`));
}
console.log(JSON.stringify(complaints));
