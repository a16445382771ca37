// Print the status of a run as JSON: node status.js PROTO HOST:PORT. Written from docs/protocol.md.
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [proto, address] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, enums: String, defaults: true });
const { Roster } = grpc.loadPackageDefinition(definition).layerwise.v1;
const roster = new Roster(address, grpc.credentials.createInsecure());

roster.Status({}, { deadline: Date.now() + 20000 }, (error, reply) => {
  if (error) {
    console.error(error.message);
    process.exit(1);
  }
  console.log(JSON.stringify(reply));
  roster.close();
});
