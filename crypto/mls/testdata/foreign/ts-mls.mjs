// Devices of ts-mls, driven over stdin and stdout (serve.mjs).
import { createHash } from "node:crypto";
import * as mls from "ts-mls";
import { createGroupInfo } from "ts-mls/createCommit.js";
import { encodeRatchetTree } from "ts-mls/ratchetTree.js";
import { XWing } from "@hpke/hybridkem-x-wing";
import { bytes, serve } from "./serve.mjs";

const names = Object.fromEntries(Object.entries(mls.ciphersuites).map(([name, id]) => [id, name]));
const xwing = 0xf04e;

// Sotto's X-Wing suite is not among those of the library, and is put together
// from its parts. One of them is replaced: the library's DeriveKeyPair of X-Wing
// is that of an older draft, and here it is that of draft-ietf-hpke-pq, which
// labels its input.
async function suiteOf(id) {
  if (id !== xwing) return mls.getCiphersuiteImpl(mls.getCiphersuiteFromName(names[id]));
  const impl = await mls.getCiphersuiteImpl({
    hash: "SHA-384",
    hpke: { kem: "X-Wing", aead: "AES256GCM", kdf: "HKDF-SHA384" },
    signature: "Ed25519",
    name: String(xwing),
  });
  impl.hpke.deriveKeyPair = async (ikm) => {
    const label = "DeriveKeyPair", length = 32;
    const seed = createHash("shake256", { outputLength: length })
      .update(ikm)
      .update("HPKE-v1")
      .update(Uint8Array.of(0x4b, 0x45, 0x4d, 0x64, 0x7a)) // "KEM", the number of X-Wing
      .update(Uint8Array.of(0, label.length))
      .update(label)
      .update(Uint8Array.of(0, length))
      .digest();
    return new XWing().generateKeyPairDerand(new Uint8Array(seed));
  };
  return impl;
}

// The library, in this version, takes the data of an external_pub extension for
// the key itself. It is a structure with a key in it (RFC 9420, Section
// 12.4.3.2), so the key's length is added where it is written, and taken off
// where it is read.
const withLength = (key) =>
  key.length < 64 ? Uint8Array.of(key.length, ...key) : Uint8Array.of(0x40 | (key.length >> 8), key.length & 0xff, ...key);

async function readsLength(hpke) {
  const { publicKey } = await hpke.generateKeyPair();
  const size = (await hpke.exportPublicKey(publicKey)).length;
  const importKey = hpke.importPublicKey;
  hpke.importPublicKey = (key) => importKey(key.length > size ? key.subarray(key.length - size) : key);
}

const devices = new Map();

function decode(b64) {
  const [message] = mls.decodeMlsMessage(bytes(b64), 0) ?? [];
  if (!message) throw new Error("no MLSMessage");
  return message;
}

const encode = (content) => mls.encodeMlsMessage({ version: "mls10", ...content });
const welcomeOf = (welcome) => encode({ wireformat: "mls_welcome", welcome });

async function newDevice({ device, suite, identity }) {
  const cs = await suiteOf(suite);
  await readsLength(cs.hpke);
  const d = { cs };
  const capabilities = { ...mls.defaultCapabilities(), ciphersuites: [cs.name] };
  const credential = { credentialType: "basic", identity: new TextEncoder().encode(identity) };
  const made = await mls.generateKeyPackage(credential, capabilities, mls.defaultLifetime, [], cs);
  Object.assign(d, made);
  devices.set(device, d);
  return d;
}

async function commit(d, request, proposals) {
  const out = await mls.createCommit(
    { state: d.state, cipherSuite: d.cs },
    { extraProposals: proposals, ratchetTreeExtension: true, wireAsPublicMessage: request.public },
  );
  d.state = out.newState;
  return { commit: mls.encodeMlsMessage(out.commit), welcome: out.welcome && welcomeOf(out.welcome) };
}

const ops = {
  async keyPackage(request) {
    const d = await newDevice(request);
    return { keyPackage: encode({ wireformat: "mls_key_package", keyPackage: d.publicPackage }) };
  },
  async create(request) {
    const d = await newDevice(request);
    d.state = await mls.createGroup(bytes(request.group), d.publicPackage, d.privatePackage, [], d.cs);
  },
  async join({ device, welcome }) {
    const d = devices.get(device);
    d.state = await mls.joinGroup(decode(welcome).welcome, d.publicPackage, d.privatePackage, mls.emptyPskIndex, d.cs);
  },
  async joinExternal(request) {
    const d = await newDevice(request);
    const { groupInfo } = decode(request.info);
    const out = await mls.joinGroupExternal(groupInfo, d.publicPackage, d.privatePackage, false, d.cs);
    d.state = out.newState;
    return { commit: encode({ wireformat: "mls_public_message", publicMessage: out.publicMessage }) };
  },
  async info({ device }) {
    const { state, cs } = devices.get(device);
    const key = await cs.hpke.deriveKeyPair(state.keySchedule.externalSecret);
    const groupInfo = await createGroupInfo(state.groupContext, state.confirmationTag, state, [
      { extensionType: "external_pub", extensionData: withLength(await cs.hpke.exportPublicKey(key.publicKey)) },
      { extensionType: "ratchet_tree", extensionData: encodeRatchetTree(state.ratchetTree) },
    ], cs);
    return { info: encode({ wireformat: "mls_group_info", groupInfo }) };
  },
  add: (request) =>
    commit(devices.get(request.device), request, request.packages.map((p) => ({
      proposalType: "add", add: { keyPackage: decode(p).keyPackage },
    }))),
  remove: (request) =>
    commit(devices.get(request.device), request, [{ proposalType: "remove", remove: { removed: request.leaf } }]),
  update: (request) => commit(devices.get(request.device), request, []),
  commitPending: (request) => commit(devices.get(request.device), request, []),
  async proposeRemove({ device, leaf, public: asPublic }) {
    const d = devices.get(device);
    const out = await mls.createProposal(d.state, asPublic, { proposalType: "remove", remove: { removed: leaf } }, d.cs);
    d.state = out.newState;
    return { proposal: mls.encodeMlsMessage(out.message) };
  },
  async process({ device, message }) {
    const d = devices.get(device);
    const out = await mls.processMessage(decode(message), d.state, mls.makePskIndex(d.state, {}), mls.acceptAll, d.cs);
    d.state = out.newState;
    if (out.kind === "applicationMessage") return { content: out.message };
    return { removed: d.state.groupActiveState.kind === "removedFromGroup" };
  },
  async encrypt({ device, content }) {
    const d = devices.get(device);
    const out = await mls.createApplicationMessage(d.state, bytes(content), d.cs);
    d.state = out.newState;
    return { message: encode({ wireformat: "mls_private_message", privateMessage: out.privateMessage }) };
  },
  async secrets({ device }) {
    const { state, cs } = devices.get(device);
    return {
      authenticator: state.keySchedule.epochAuthenticator,
      exported: await mls.mlsExporter(state.keySchedule.exporterSecret, "exporter", new Uint8Array(), 32, cs),
    };
  },
};

await serve(ops);
