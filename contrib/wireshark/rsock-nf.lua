-- A Wireshark dissector of rsock-nf's native wire, version 2 (docs/wire.md has every byte).
--
-- Install: copy this file into Wireshark's folder of personal Lua plugins (Help > About > Folders), for example
-- ~/.local/lib/wireshark/plugins/.  Or for one run: tshark -X lua_script:rsock-nf.lua -r FILE.
--
-- What it reads:
--   cipher none    the header of every frame, datagrams, fragments; control frames up to their sealed body
--   sealed         where handshake messages and sealed payloads are; their inside takes keys, and is said to be sealed
--   decrypted      what `rsock-nf capture --decrypt` wrote: everything.  Such a packet has a comment that says so
--
-- How it finds flows: by the ports in its preferences, by "Decode As", or by itself.  By itself it takes a flow from
-- the confirmation on, if three messages before frames have the lengths, the order and the look of a handshake.  A
-- capture that begins later is recognised from the third frame of cipher none on; sealed flows need their port.
-- Wireshark and `tshark -2` label the packets before that, too.
--
-- Written for Wireshark 4.0, whose tshark runs it in tests/wire/native/test_dissector.py.

local rsock_nf = Proto("rsock_nf", "rsock-nf")

local KINDS = { [0] = "data", "opening", "fragment", "control" }
local DATA, OPENING, FRAGMENT, CONTROL = 0, 1, 2, 3
local CONTROLS = {
    "Ready", "Probe", "ProbeAnswer", "FlowDown", "CloseFlow", "Opened", "CloseConversation", "Refused",
    "CloseSession", "Rekey", "Rekeyed", "RekeyWanted", "TargetState",
    "SeenAs",
}
local REASONS = { "no such target", "too many conversations", "no socket toward the target" }
local TARGET_STATES = { [0] = "answers", "nobody listens there" }
local MESSAGES = { "hello", "answer", "join", "join answer", "confirmation", "gone", "cookie" }
local HELLO, ANSWER, JOIN, JOIN_ANSWER, CONFIRMATION, GONE, COOKIE = 1, 2, 3, 4, 5, 6, 7
local HELLO_OR_JOIN, JOIN_ANSWER_OR_COOKIE = 100, 101
local CIPHERS = { [0] = "none", "aes-256-gcm", "chacha20-poly1305" }
local STATUSES = { [0] = "welcome", "other cipher", "full" }
local SCALES = { [255] = "none in the SYN-ACK" }
local HEADER, TAG, SALT, HINT = 8, 16, 16, 4
-- The hint stands behind each message of a client.
local FROM_CLIENT = { [HELLO] = true, [JOIN] = true, [CONFIRMATION] = true, [HELLO_OR_JOIN] = true }

local MESSAGE_NAMES = { [HELLO_OR_JOIN] = "hello or join", [JOIN_ANSWER_OR_COOKIE] = "join answer or cookie" }
for number, name in ipairs(MESSAGES) do MESSAGE_NAMES[number] = name end

local F = {
    sealed = ProtoField.bytes("rsock_nf.sealed", "Sealed"),
    decrypted = ProtoField.string("rsock_nf.decrypted", "Decrypted by rsock-nf capture"),
    -- handshake
    message = ProtoField.uint8("rsock_nf.handshake.message", "Handshake message", base.DEC, MESSAGE_NAMES),
    salt = ProtoField.bytes("rsock_nf.handshake.salt", "Salt"),
    masked = ProtoField.bytes("rsock_nf.handshake.masked", "Masked kind and body"),
    message_kind = ProtoField.uint8("rsock_nf.handshake.kind", "Kind", base.DEC, MESSAGES),
    cookie = ProtoField.bytes("rsock_nf.handshake.cookie", "Cookie"),
    cookie_of = ProtoField.bytes("rsock_nf.handshake.cookie_of", "Salt of the hello"),
    sent = ProtoField.uint16("rsock_nf.handshake.sent", "Payload bytes sent before"),
    received = ProtoField.uint16("rsock_nf.handshake.received", "Payload bytes received before"),
    ephemeral = ProtoField.bytes("rsock_nf.handshake.ephemeral", "Ephemeral X25519 key"),
    version = ProtoField.uint8("rsock_nf.offer.version", "Version"),
    cipher = ProtoField.uint8("rsock_nf.offer.cipher", "Cipher", base.DEC, CIPHERS),
    mss = ProtoField.uint16("rsock_nf.offer.mss", "MSS"),
    scale = ProtoField.uint8("rsock_nf.offer.window_scale", "Window scale", base.DEC, SCALES),
    zeros = ProtoField.bytes("rsock_nf.handshake.padding", "Padding"),
    challenge = ProtoField.bytes("rsock_nf.handshake.challenge", "Challenge"),
    session = ProtoField.uint64("rsock_nf.session", "Session", base.HEX),
    number = ProtoField.uint32("rsock_nf.handshake.number", "Number (flow id)"),
    mac = ProtoField.bytes("rsock_nf.handshake.mac", "Keyed hash"),
    hint = ProtoField.bytes("rsock_nf.handshake.hint", "Hint of the secret"),
    -- frames
    frame = ProtoField.bytes("rsock_nf.frame", "Frame", base.NONE),
    kind = ProtoField.uint16("rsock_nf.kind", "Kind", base.DEC, KINDS, 0xC000),
    length = ProtoField.uint16("rsock_nf.length", "Length", base.DEC, nil, 0x3FFF),
    conversation = ProtoField.uint16("rsock_nf.conversation", "Conversation"),
    token = ProtoField.uint32("rsock_nf.token", "Token", base.HEX),
    epoch_bit = ProtoField.uint8("rsock_nf.epoch_bit", "Epoch, lowest bit"),
    counter = ProtoField.uint64("rsock_nf.counter", "Counter"),
    target = ProtoField.uint16("rsock_nf.target", "Target", base.DEC, nil, nil, "65535 = the server itself: a speed test"),
    datagram = ProtoField.bytes("rsock_nf.datagram", "Datagram"),
    tag = ProtoField.bytes("rsock_nf.tag", "Tag"),
    identification = ProtoField.uint32("rsock_nf.fragment.identification", "Identification", base.HEX),
    index = ProtoField.uint8("rsock_nf.fragment.index", "Index"),
    count = ProtoField.uint8("rsock_nf.fragment.count", "Count"),
    part = ProtoField.bytes("rsock_nf.fragment.part", "Part of a datagram"),
    -- control messages
    control = ProtoField.uint8("rsock_nf.control", "Control message", base.DEC, CONTROLS),
    probe = ProtoField.uint32("rsock_nf.control.number", "Number"),
    flow_id = ProtoField.uint32("rsock_nf.control.flow_id", "Flow id"),
    frames_received = ProtoField.uint32("rsock_nf.control.received", "Frames received"),
    about = ProtoField.uint16("rsock_nf.control.conversation", "Conversation"),
    reason = ProtoField.uint8("rsock_nf.control.reason", "Reason", base.DEC, REASONS),
    refuses = ProtoField.uint8("rsock_nf.control.refuses", "State", base.DEC, TARGET_STATES),
    epoch = ProtoField.uint32("rsock_nf.control.epoch", "Epoch"),
    key = ProtoField.bytes("rsock_nf.control.key", "X25519 key"),
    seen_address = ProtoField.ipv6("rsock_nf.control.seen_address", "Client's address as the server sees it"),
    seen_port = ProtoField.uint16("rsock_nf.control.seen_port", "Client's port as the server sees it"),
    padding = ProtoField.bytes("rsock_nf.control.padding", "Padding"),
}
rsock_nf.fields = F

local E = {
    sealed = ProtoExpert.new("rsock_nf.is_sealed", "Sealed: `rsock-nf capture --decrypt` shows what is inside",
        expert.group.UNDECODED, expert.severity.CHAT),
    malformed = ProtoExpert.new("rsock_nf.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR),
    token = ProtoExpert.new("rsock_nf.other_token", "Not the token of this flow: the receiver drops this frame",
        expert.group.PROTOCOL, expert.severity.WARN),
    cut = ProtoExpert.new("rsock_nf.cut", "Not captured whole (snap length)",
        expert.group.UNDECODED, expert.severity.NOTE),
}
rsock_nf.experts = E

local AUTO, NONE, SEALED = 0, 1, 2
rsock_nf.prefs.tcp_ports = Pref.range("TCP ports", "", "The server's ports of fake TCP, for example 5001-5010", 65535)
rsock_nf.prefs.udp_ports = Pref.range("UDP ports", "", "The server's ports of flows over UDP", 65535)
rsock_nf.prefs.cipher = Pref.enum("Cipher", AUTO, "How frames are read that are not decrypted",
    { { 1, "found out for each flow", AUTO }, { 2, "none", NONE }, { 3, "sealed", SEALED } }, false)
rsock_nf.prefs.inside = Pref.string("Datagrams are", "",
    "A dissector for what datagrams hold, for example wg (WireGuard); empty = none")

local comments = Field.new("frame.comment")

-- What is known of each flow, by addresses and ports; what each payload was found to be, by packet and flow.
-- Wireshark's first pass gives no fields to Lua (there is no tree), so nothing here may depend on any: no tcp.stream.
local flows, found_before = {}, {}

function rsock_nf.init()
    flows, found_before = {}, {}
end

local function new_flow()
    return {
        claimed = false,     -- it is ours beyond doubt
        stage = "start",     -- "asked": hello or join is out; "answered"; "confirmed"
        client = nil,        -- source of hello or join, as text
        salts = {},          -- of messages so far → which message
        plain = 0, sealed = 0,  -- payloads that look like frames of cipher none, and others
        tokens = {},         -- of each source: token and how often in a row
    }
end

-- (which flow, source) of a packet.
local function place_of(pinfo)
    local kind = pinfo.port_type == 3 and "udp" or "tcp" -- PT_UDP
    local source = tostring(pinfo.src) .. " " .. pinfo.src_port
    local destination = tostring(pinfo.dst) .. " " .. pinfo.dst_port
    if source < destination then return kind .. " " .. source .. " " .. destination, source end
    return kind .. " " .. destination .. " " .. source, source
end

-- Random bytes have about as many bytes above 127 as below; text, zeros and small numbers have not.
local function looks_random(tvb)
    local bytes = tvb:range(0, tvb:len()):bytes()
    local size, high = bytes:len(), 0
    for at = 0, size - 1 do
        if bytes:get_index(at) > 127 then high = high + 1 end
    end
    return size >= 25 and high > size * 0.15 and high < size * 0.85
end

-- ---------------------------------------------------------------------------------------------------------------------
-- What is it?

-- The frames in a payload: a list of {at, kind, length, finish}; and whether they fill it from begin to end.
-- `tagged`: every frame has a tag; else only control frames have.
local function frames_in(tvb, tagged)
    local frames, at, size, captured = {}, 0, tvb:reported_len(), tvb:len()
    while at < size do
        if at + HEADER > captured then return frames, at + HEADER <= size, at end
        local word = tvb(at, 2):uint()
        local kind, length = bit.rshift(word, 14), bit.band(word, 0x3FFF)
        local finish = at + HEADER + length + ((tagged or kind == CONTROL) and TAG or 0)
        local least = kind == OPENING and 2 or kind == FRAGMENT and 8 or kind == CONTROL and 1 or 0
        if finish > size or length < least then return frames, false, at end
        frames[#frames + 1] = { at = at, kind = kind, length = length, finish = finish }
        at = finish
    end
    return frames, #frames > 0, at
end

-- Which message of the handshake this is, by its length, its place and those before; nil = none.
local function handshake_message(flow, source, size, salt)
    local known = flow.salts[salt]
    if known and known.size == size and known.source == source then return known.message end -- the same once more
    local function is(message, stage)
        flow.salts[salt] = { message = message, size = size, source = source }
        flow.stage = stage
        return message
    end
    if flow.stage == "start" then
        if size >= 50 and size <= 162 then -- without a hint, as clients of before, from 50 on
            flow.client, flow.asked = source, size
            return is(size < 99 and JOIN or size > 117 and HELLO or HELLO_OR_JOIN, "asked")
        end
    elseif flow.stage == "confirmed" then
        return nil
    elseif source ~= flow.client then
        if size == 95 then return is(ANSWER, "answered") end
        if size == 49 then
            local message = flow.asked < 99 and JOIN_ANSWER or flow.asked > 117 and COOKIE or JOIN_ANSWER_OR_COOKIE
            return is(message, "answered")
        end
        if size == 33 then return is(GONE, "asked") end
    else
        if (size == 65 or size == 61) and flow.stage == "answered" then return is(CONFIRMATION, "confirmed") end
        if size >= 95 and size <= 162 then -- a hello with the cookie that was wanted
            flow.asked = 162
            return is(HELLO, "asked")
        end
    end
    flow.stage = "confirmed" -- it was no handshake, or its end was not captured
    return nil
end

local function note_token(flow, source, tvb, frames)
    for _, frame in ipairs(frames) do
        if frame.kind ~= CONTROL and frame.at + HEADER <= tvb:len() then
            local token, seen = tvb(frame.at + 4, 4):uint(), flow.tokens[source]
            if not seen then
                flow.tokens[source] = { token = token, times = 1 }
            elseif seen.token == token then
                seen.times = seen.times + 1
            elseif seen.times < 2 then
                seen.token, seen.times = token, 1
            end
        end
    end
end

-- What this payload is: {message = …} or {frames = true} or {sealed = true}.  Asked once for each payload, in order: in
-- the first pass.
local function find_out(flow, tvb, source)
    local size = tvb:reported_len()
    local frames, whole = frames_in(tvb, false)
    if not whole and flow.plain > 2 * flow.sealed + 2 and size >= 50 and size <= 158 and looks_random(tvb) then
        flow.stage = "start" -- the same ports serve another flow
    end
    if not whole and tvb:len() >= SALT then
        local message = handshake_message(flow, source, size, tostring(tvb(0, SALT):bytes()))
        if message then return { message = message } end
    elseif whole and flow.stage ~= "start" then
        flow.stage = "confirmed"
    end
    local cipher = rsock_nf.prefs.cipher
    if cipher == SEALED then return { sealed = true } end
    if whole then
        flow.plain = flow.plain + 1
    else
        flow.sealed = flow.sealed + 1
    end
    if cipher == NONE or flow.plain >= flow.sealed then
        if whole then note_token(flow, source, tvb, frames) end
        return { frames = true }
    end
    return { sealed = true }
end

-- `certain`: ports or the user say that it is ours.  Nil = it is not known to be ours.
local function what_is(tvb, pinfo, certain)
    local place, source = place_of(pinfo)
    local flow = flows[place]
    if not flow then
        flow = new_flow()
        flows[place] = flow
    end
    local here = pinfo.number .. " " .. place
    local found = found_before[here]
    if not found then
        found = find_out(flow, tvb, source)
        found_before[here] = found
        if found.message and not looks_random(tvb) then flow.foreign = true end
        if found.message == CONFIRMATION and not flow.foreign then flow.claimed = true end
        local token = flow.tokens[source]
        if token and token.times >= 3 and token.token ~= 0 and flow.sealed == 0 then flow.claimed = true end
    end
    if not (certain or flow.claimed) then return nil end
    return found, flow, source
end

-- ---------------------------------------------------------------------------------------------------------------------
-- What is in it

-- A range of the captured bytes, or nil if not all of it was captured.
local function captured(tvb, at, size, tree)
    if at + size <= tvb:len() then return tvb(at, size) end
    tree:add_proto_expert_info(E.cut)
    return nil
end

local function add_rest(tree, field, tvb, at, finish)
    local here = math.min(finish, tvb:len())
    if here > at then tree:add(field, tvb(at, here - at)) end
end

local function show_inside(tvb, at, finish, pinfo, tree)
    local name = rsock_nf.prefs.inside
    if name == "" or finish > tvb:len() or finish == at then return end
    local known, dissector = pcall(Dissector.get, name)
    if not (known and dissector) then return end
    pinfo.can_desegment = 0 -- a datagram is whole: nothing of it is in another segment
    pcall(dissector.call, dissector, tvb(at, finish - at):tvb(), pinfo, tree)
    pinfo.desegment_len = 0
end

local FIELDS = {
    Probe = { { F.probe, 4 } },
    ProbeAnswer = { { F.probe, 4 }, { F.flow_id, 4 }, { F.frames_received, 4 } },
    FlowDown = { { F.flow_id, 4 } },
    Opened = { { F.about, 2 } },
    CloseConversation = { { F.about, 2 } },
    Refused = { { F.about, 2 }, { F.reason, 1 } },
    TargetState = { { F.target, 2 }, { F.refuses, 1 } },
    Rekey = { { F.epoch, 4 }, { F.key, 32 } },
    Rekeyed = { { F.epoch, 4 }, { F.key, 32 } },
    SeenAs = { { F.seen_address, 16 }, { F.seen_port, 2 } },
}

-- Adds each of `fields`, {field, bytes}, one behind the other; where they end, or nil if there are not so many bytes.
local function add_fields(tree, tvb, at, finish, fields)
    for _, one in ipairs(fields) do
        if at + one[2] > finish then
            tree:add_proto_expert_info(E.malformed, "Shorter than its fields")
            return nil
        end
        local range = captured(tvb, at, one[2], tree)
        if not range then return nil end
        tree:add(one[1], range)
        at = at + one[2]
    end
    return at
end

local function show_control(tvb, at, finish, tree)
    local range = captured(tvb, at, 1, tree)
    if not range then return "control" end
    tree:add(F.control, range)
    local name = CONTROLS[range:uint()]
    if not name then
        tree:add_proto_expert_info(E.malformed, "Unknown control message")
        return "control?"
    end
    local behind = add_fields(tree, tvb, at + 1, finish, FIELDS[name] or {})
    if behind then add_rest(tree, F.padding, tvb, behind, finish) end
    return name
end

-- One frame; a few words about it.  `clear`: nil, or what the comment of a decrypted packet told.
local function show_frame(tvb, frame, pinfo, tree, flow, source, clear)
    local at, kind = frame.at, frame.kind
    local tagged = kind == CONTROL or (clear and clear.cipher ~= "none")
    local behind = math.min(frame.finish, tvb:len())
    local item = tree:add(F.frame, tvb(at, behind - at))
    item:set_text(string.format("Frame: %s, %d bytes", KINDS[kind], frame.length))
    item:add(F.kind, tvb(at, 2))
    item:add(F.length, tvb(at, 2))
    local words = KINDS[kind]
    if kind == CONTROL then
        local number = tvb(at + 2, 6):uint64()
        item:add(F.epoch_bit, tvb(at + 2, 1), tvb(at + 2, 1):bitfield(0, 1))
        item:add(F.counter, tvb(at + 2, 6), number:band(UInt64.new(0xFFFFFFFF, 0x7FFF)))
    else
        item:add(F.conversation, tvb(at + 2, 2))
        words = words .. " " .. tvb(at + 2, 2):uint()
        if tagged then
            item:add(F.epoch_bit, tvb(at + 4, 1), tvb(at + 4, 1):bitfield(0, 1))
            item:add(F.counter, tvb(at + 4, 4), UInt64.new(bit.band(tvb(at + 4, 4):uint(), 0x7FFFFFFF) % 0x80000000, 0))
        else
            local token = item:add(F.token, tvb(at + 4, 4))
            local usual = flow and flow.tokens[source]
            if usual and usual.times > 1 and usual.token ~= tvb(at + 4, 4):uint() then
                token:add_proto_expert_info(E.token)
            end
        end
    end
    local body = at + HEADER
    local finish = body + frame.length
    if kind == CONTROL and not clear then
        add_rest(item, F.sealed, tvb, body, frame.finish)
    elseif kind == CONTROL then
        words = show_control(tvb, body, finish, item)
        item:append_text(", " .. words)
    elseif kind == OPENING then
        local after = add_fields(item, tvb, body, finish, { { F.target, 2 } })
        if after then
            add_rest(item, F.datagram, tvb, after, finish)
            show_inside(tvb, after, finish, pinfo, item)
        end
    elseif kind == FRAGMENT then
        local layout = { { F.identification, 4 }, { F.index, 1 }, { F.count, 1 }, { F.target, 2 } }
        local after = add_fields(item, tvb, body, finish, layout)
        if after then
            local index, count = tvb(body + 4, 1):uint(), tvb(body + 5, 1):uint()
            words = string.format("%s (%d of %d)", words, index + 1, count)
            if index >= count then item:add_proto_expert_info(E.malformed, "Index beyond the count") end
            add_rest(item, F.part, tvb, after, finish)
        end
    else
        add_rest(item, F.datagram, tvb, body, finish)
        show_inside(tvb, body, finish, pinfo, item)
    end
    if tagged and (clear or kind ~= CONTROL) then add_rest(item, F.tag, tvb, finish, frame.finish) end
    if frame.finish > tvb:len() then item:add_proto_expert_info(E.cut) end
    return words
end

local function show_frames(tvb, pinfo, tree, flow, source, clear)
    local frames, whole, stopped = frames_in(tvb, clear and clear.cipher ~= "none")
    local words, last, times = {}, nil, 0
    local function flush()
        if last then words[#words + 1] = times > 1 and string.format("%d × %s", times, last) or last end
    end
    for _, frame in ipairs(frames) do
        local about = show_frame(tvb, frame, pinfo, tree, flow, source, clear)
        if about ~= last then
            flush()
            last, times = about, 0
        end
        times = times + 1
    end
    flush()
    if not whole then
        local rest = stopped < tvb:len() and tree:add(F.sealed, tvb(stopped)) or tree
        if rest ~= tree then rest:set_text(string.format("%d bytes that are no frame", tvb:len() - stopped)) end
        rest:add_proto_expert_info(E.malformed, "No frame begins here, or it does not end in this payload")
        words[#words + 1] = "malformed"
    elseif stopped < tvb:reported_len() then
        tree:add_proto_expert_info(E.cut)
    end
    return table.concat(words, ", ")
end

local OFFER = { { F.version, 1 }, { F.cipher, 1 }, { F.mss, 2 }, { F.scale, 1 } }
local BODIES = {
    [HELLO] = { { F.cookie, 16 }, { F.sent, 2 }, { F.received, 2 }, { F.ephemeral, 32 } },
    [ANSWER] = { { F.challenge, 16 }, { F.ephemeral, 32 } },
    [JOIN] = { { F.session, 8 }, { F.number, 4 } },
    [JOIN_ANSWER] = { { F.challenge, 16 }, { F.mac, 16 } },
    [CONFIRMATION] = { { F.session, 8 }, { F.number, 4 } },
    [GONE] = { { F.mac, 16 } },
    [COOKIE] = { { F.cookie_of, 16 }, { F.cookie, 16 } },
}

-- A handshake message without its mask.
local function show_message(tvb, tree)
    local size = tvb:reported_len()
    local range = captured(tvb, 0, SALT + 1, tree)
    if not range then return "handshake" end
    local kind = tvb(SALT, 1):uint()
    local item = tree:add(F.message, tvb(SALT, 1))
    item:add(F.salt, tvb(0, SALT))
    item:add(F.message_kind, tvb(SALT, 1))
    if not BODIES[kind] then
        item:add_proto_expert_info(E.malformed, "Unknown message")
        return "handshake?"
    end
    local finish = FROM_CLIENT[kind] and size - HINT or size
    local at = add_fields(item, tvb, SALT + 1, finish, BODIES[kind])
    if at and kind == HELLO then
        at = add_fields(item, tvb, at, finish - TAG, OFFER)
        if at then
            add_rest(item, F.zeros, tvb, at, finish - TAG)
            add_rest(item, F.tag, tvb, finish - TAG, finish)
        end
    elseif at and (kind == ANSWER or kind == JOIN or kind == CONFIRMATION) then
        add_rest(item, F.sealed, tvb, at, finish)
    end
    if at and finish < size then add_rest(item, F.hint, tvb, finish, size) end
    return MESSAGES[kind]
end

-- A handshake message as everybody sees it.
local function show_masked(tvb, tree, message)
    local item = tree:add(F.message, tvb(0), message)
    item:set_text(string.format("Handshake message: %s (by its length and place)", MESSAGE_NAMES[message]))
    local range = captured(tvb, 0, SALT, item)
    if range then
        item:add(F.salt, range)
        local size = tvb:reported_len()
        local finish = FROM_CLIENT[message] and size - HINT or size
        add_rest(item, F.masked, tvb, SALT, finish)
        if finish < size then add_rest(item, F.hint, tvb, finish, size) end
    end
    return MESSAGE_NAMES[message]
end

-- What `rsock-nf capture --decrypt` told in the packet's comment; nil = it is no decrypted packet.
local function told_in_comment()
    for _, one in ipairs({ comments() }) do
        local said = tostring(one.value)
        local what = said:match("^rsock%-nf: in clear, (.*)$")
        if what then
            return { text = what, handshake = what:match("^handshake") ~= nil, cipher = what:match("^cipher ([%w-]+)") }
        end
    end
    return nil
end

local function dissect(tvb, pinfo, root, certain)
    local size = tvb:reported_len()
    if size == 0 or tvb:len() == 0 then return 0 end
    local clear = told_in_comment()
    local found, flow, source = what_is(tvb, pinfo, certain or clear ~= nil)
    if not found then return 0 end
    pinfo.cols.protocol = "RSOCK-NF"
    local tree = root:add(rsock_nf, tvb(0))
    local words
    if clear then
        tree:add(F.decrypted, clear.text):set_generated()
        words = clear.handshake and show_message(tvb, tree) or show_frames(tvb, pinfo, tree, flow, source, clear)
    elseif found.message then
        words = show_masked(tvb, tree, found.message)
    elseif found.frames then
        words = show_frames(tvb, pinfo, tree, flow, source, nil)
    else
        local item = tree:add(F.sealed, tvb(0))
        item:set_text(string.format("Sealed frames: %d bytes", size))
        item:add_proto_expert_info(E.sealed)
        words = "sealed"
    end
    tree:append_text(", " .. words)
    pinfo.cols.info:set(string.format("%d → %d %s Len=%d", pinfo.src_port, pinfo.dst_port, words, size))
    return tvb:len()
end

function rsock_nf.dissector(tvb, pinfo, root)
    return dissect(tvb, pinfo, root, true)
end

local function guess(tvb, pinfo, root)
    return dissect(tvb, pinfo, root, false) > 0
end

rsock_nf:register_heuristic("tcp", guess)
rsock_nf:register_heuristic("udp", guess)

local tables = { tcp_ports = DissectorTable.get("tcp.port"), udp_ports = DissectorTable.get("udp.port") }
local registered = {}
for _, dissectors in pairs(tables) do dissectors:add_for_decode_as(rsock_nf) end

local function register_ports()
    for name, dissectors in pairs(tables) do
        local wanted = tostring(rsock_nf.prefs[name] or "")
        if registered[name] ~= wanted then
            if registered[name] and registered[name] ~= "" then dissectors:remove(registered[name], rsock_nf) end
            if wanted ~= "" then dissectors:add(wanted, rsock_nf) end
            registered[name] = wanted
        end
    end
end
rsock_nf.prefs_changed = register_ports
register_ports()
