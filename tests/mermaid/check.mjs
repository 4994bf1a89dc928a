// Reads a JSON array of flowcharts, and writes for each what Mermaid's own parser makes of it:
// nodes with their labels, and edges. Fails if one is none.

import { readFileSync } from "node:fs";
import { JSDOM } from "jsdom";

// Mermaid cleans labels with what only browsers have.
const { window } = new JSDOM("");
Object.assign(globalThis, { window, document: window.document });
const { default: mermaid } = await import("mermaid");
mermaid.initialize({ startOnLoad: false });

// Between the parser and the picture Mermaid keeps entities so.
const decoded = (label) =>
  label.replace(/ﬂ°°(\d+)¶ß/g, (_, number) => String.fromCodePoint(Number(number)));

const charts = [];
for (const text of JSON.parse(readFileSync(0, "utf8"))) {
  const { diagramType } = await mermaid.parse(text);
  const { db } = await mermaid.mermaidAPI.getDiagramFromText(text);
  charts.push({
    type: diagramType,
    nodes: [...db.getVertices().values()].map((node) => [node.id, decoded(node.text), node.classes]),
    edges: db.getEdges().map((edge) => [edge.start, edge.end, edge.type, edge.text]),
    clicks: [...db.getVertices().values()].filter((node) => node.link || node.haveCallback).length,
  });
}
console.log(JSON.stringify(charts));
