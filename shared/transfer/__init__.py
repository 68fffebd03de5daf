"""The rules of an upload for both ends, without I/O: what came in -> what to do. The clock is passed in.

Camera (`sender.Sender`), per event:

    state     | on                            | goes to  | does
    ----------|-------------------------------|----------|-----------------------------------------------
    waiting   | its turn, within the credit   | sending  | event (follows), then its chunks
    waiting   | its turn, no credit known yet | asked    | event (does not follow)
    waiting   | its turn, a preview           | asked    | event (held)
    sending   | last chunk handed over        | sent     |
    asked     | resend                        | sending  | the chunks asked for
    sent      | resend                        | sending  | the chunks asked for
    asked     | noted                         | held     |
    held      | resend                        | sending  | the chunks asked for
    asked, sending, sent | connection lost, another boot id, a hub ended or left us, pause | to ask |
    asked, sent | the broker has it all, the hub says nothing for long | to ask |
    to ask    | hub lives and accepts, no pause | asked  | event (does not follow)
    held      | the hub's epoch changed       | waiting  |
    any       | stored                        | gone     | the caller deletes the file
    any       | refuse                        | gone     | the caller quarantines the file

A hub lives when its counter was seen to advance since we connected, and not longer ago than LOST_BEATS beats: a
retained `online` alone may be a ghost. Without a living hub that accepts nothing is sent. Of several hubs those count
that serve the camera's site.

Hub (`receiver.Receiver`), per event:

    state     | on                            | goes to  | does
    ----------|-------------------------------|----------|-----------------------------------------------
    -         | event, stored before          | -        | stored (same hash) or refuse (another hash)
    -         | event, too large              | -        | refuse
    -         | event, no room for it now     | -        | pause
    -         | event, the disk nearly full   | -        | pause
    -         | event, a preview              | held     | hand the preview over to be made durable
    -         | event                         | partial  | resend of all, where the chunks do not follow
    held      | durable                       | -        | noted
    held      | could not be made durable     | -        | pause; the camera will ask again
    -         | its image is wanted           | partial  | resend of all, as room and credit allow
    partial   | wanted, its camera comes online | partial | resend of what is missing
    partial   | gone                          | -        |
    partial   | event again, a preview too    | partial  | resend of what is missing
    partial   | event again, cut otherwise    | partial  | what is covered is kept; resend of the rest
    partial   | chunk                         | partial  | resend of gaps, after the last index came
    partial   | chunk, nothing missing        | complete | hand the image over to be made durable
    partial   | the same, wrong hash          | partial  | resend of all; at the second time: refuse, gone
    partial   | SPILL_AFTER s old             | partial  | its chunks are put on disk, to survive a restart
    partial   | nothing for `partial_ttl_s`   | -        |
    partial   | the camera offers beyond its share | -   | (its oldest ones; it asks again)
    complete  | durable                       | -        | stored
    complete  | was stored before             | -        | stored (same hash) or refuse (another hash)
    complete  | could not be made durable     | -        | pause; the camera will ask again
"""

from shared.transfer.ranges import to_ranges
from shared.transfer.receiver import (
    SPILL_AFTER,
    Answer,
    Complete,
    Drop,
    Effect,
    Held,
    Keep,
    Limits,
    Problem,
    Receiver,
)
from shared.transfer.sender import (
    FIRST_PATIENCE,
    LOST_BEATS,
    MAX_PATIENCE,
    MAX_PAUSE,
    Offer,
    SendChunk,
    Sender,
    SendEvent,
)

__all__ = [
    "FIRST_PATIENCE", "LOST_BEATS", "MAX_PATIENCE", "MAX_PAUSE", "SPILL_AFTER",
    "Answer", "Complete", "Drop", "Effect", "Held", "Keep", "Limits", "Offer", "Problem", "Receiver", "SendChunk",
    "SendEvent", "Sender", "to_ranges",
]  # fmt: skip
