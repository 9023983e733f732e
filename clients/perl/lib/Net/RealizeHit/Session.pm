package Net::RealizeHit::Session;

use v5.36;

use Cpanel::JSON::XS          ();
use List::Util                qw(min);
use Net::RealizeHit::Error    ();
use Net::RealizeHit::JSON     ();
use Net::RealizeHit::Label    ();
use Net::RealizeHit::Message  ();
use Net::RealizeHit::Pattern  ();
use Scalar::Util              qw(looks_like_number);

our $VERSION = '0.1.0';

use constant MAX_SECONDS => 86_400;    # that an event can speak of

sub new ( $class, %fields ) {
    return bless { number => 0, pending => {}, topics => {}, by_id => {}, %fields }, $class;
}

# Sends an action; answered is called with the reply, or with undef if the connection is lost.
sub act ( $self, $action, $answered = undef ) {
    my $id = ++$self->{number};
    $self->{pending}{$id} = $answered if $answered;
    $self->{connection}->send_text( Net::RealizeHit::JSON::encode( { %{$action}, id => "$id" } ) );
    return $id;
}

# A connection is there: all that is subscribed to is asked for at once.
sub attach ( $self, $connection ) {
    $self->{connection} = $connection;
    $self->_ask($_) for values %{ $self->{topics} };
    return;
}

# The connection is lost: what was subscribed to is not in force any more.
sub detach ( $self, $since, $closing ) {
    delete $self->{connection};
    $self->{by_id} = {};
    my $pending = $self->{pending};
    $self->{pending} = {};
    for my $id ( sort { $a <=> $b } keys %{$pending} ) {
        $pending->{$id}->(undef);
    }
    for my $topic ( values %{ $self->{topics} } ) {
        delete $topic->{id};
        next if $closing;
        $_->_interrupted($since) for @{ $topic->{members} };
    }
    return;
}

# The subscription to a pattern on the wire, which its subscriptions in the program share.
sub topic ( $self, $text ) { return $self->{topics}{$text} }

sub add_topic ( $self, $text, $values, %with ) {
    my $topic = $self->{topics}{$text} = {
        text     => $text,
        pattern  => $values,
        wildcard => scalar( grep { $_ eq q{*} } values %{$values} ),
        members  => [],
        offsets  => $with{offsets} || defined $with{since} || $with{last} ? 1 : 0,
        last     => $with{last},
        every    => $with{every},
        position => $with{since},
        epoch    => _epoch_of( $with{since} ),
    };
    $self->_ask($topic);
    return $topic;
}

# Adds a subscription of the program; ready is called with an error or undef.
sub join_topic ( $self, $topic, $subscription, $ready ) {
    push @{ $topic->{members} }, $subscription;
    my $timer;
    $subscription->{ready} = sub ($why) {
        delete $subscription->{ready};
        $self->{schedule}->cancel($timer);
        $ready->($why);
    };
    if ( defined $topic->{id} ) {
        $subscription->_move('subscribed');
        $subscription->{ready}->(undef);
        return;
    }
    $timer = $self->{schedule}->timer(
        $self->{response_timeout},
        sub {
            $self->leave($subscription);
            $subscription->{ready}->( late('sub') ) if $subscription->{ready};
            $subscription->_finish(undef);
        }
    );
    return;
}

# Ends a subscription; done is called with an error or undef.
sub unsubscribe ( $self, $subscription, $done ) {
    $subscription->_move('unsubscribing');
    $subscription->_end(undef);
    my $timer;
    my $finish = sub ($why) {
        my $call = $done // return;
        undef $done;
        $self->{schedule}->cancel($timer);
        $subscription->_finish(undef);
        $call->($why);
    };
    if ( $self->leave( $subscription, sub ($reply) { $finish->(undef) } ) ) {
        $timer = $self->{schedule}->timer( $self->{response_timeout}, sub { $finish->( late('unsub') ) } );
    }
    else { $finish->(undef) }
    return;
}

# Ends everything, with an error or because the program closed the client.
sub end_all ( $self, $error ) {
    $self->_end_topic( $_, $error ) for values %{ $self->{topics} };
    return;
}

# Sends the sub of a topic if there is a connection; otherwise the next one begins with it.
sub _ask ( $self, $topic ) {
    return if !$self->{connection} || !$self->_has($topic);
    my %action = ( act => 'sub', pat => $topic->{pattern} );
    if    ( defined $topic->{position} ) { $action{since} = $topic->{position} }
    elsif ( $topic->{last} && !$topic->{was_ready} ) { $action{last} = 0 + $topic->{last} }
    elsif ( $topic->{offsets} ) { $action{offsets} = Cpanel::JSON::XS::true() }
    $action{every} = 0 + $topic->{every} if $topic->{every};
    my $resumes = exists $action{since};
    $topic->{request} = $self->act( \%action, sub ($reply) { $self->_subscribed( $topic, $reply, $resumes ) } );
    return;
}

sub _has ( $self, $topic ) {
    my $known = $self->{topics}{ $topic->{text} };
    return $known && $known == $topic;
}

# Takes the answer to a sub. $resumes says whether it asked for what came after a position.
sub _subscribed ( $self, $topic, $reply, $resumes ) {
    return if !$reply || !$self->_has($topic);    # the next connection asks again, or nobody wants it any more
    if ( defined $reply->{err} ) {
        my $refusal = refusal($reply);
        if ( $topic->{was_ready} && $refusal->code =~ /\A(?:unavailable|rate-limited)\z/ ) {
            my $connection = $self->{connection};
            $self->{schedule}->timer(
                $self->{retry}->next_delay,
                sub { $self->_ask($topic) if $self->{connection} && $self->{connection} == $connection }
            );
            return;
        }
        return $self->_end_topic( $topic, $refusal );
    }
    my $id = $reply->{ret};
    $id = Net::RealizeHit::Pattern::id_of( $topic->{text} ) if !defined $id || ref $id || $id eq q{};
    my $other = $self->{by_id}{$id};
    if ( $other && $other != $topic ) {
        return $self->_end_topic(
            $topic,
            Net::RealizeHit::Error->refusal(
                'id-collision', undef,
                "the pattern $topic->{text} has the id of $other->{text}; use another client for it"
            )
        );
    }
    $self->{retry}->reset_attempts;
    my $recovered = $resumes && $reply->{recovered} ? 1 : 0;
    if ( _is_position( $reply->{at} ) && $topic->{offsets} ) {
        $topic->{epoch}    = _epoch_of( $reply->{at} );
        $topic->{position} = $reply->{at} if !$recovered;
    }
    @{$topic}{qw(id was_ready)} = ( $id, 1 );
    $self->{by_id}{$id} = $topic;
    for my $member ( @{ $topic->{members} } ) {
        $member->_gap(0) if $resumes && !$recovered && !defined $member->{away};    # the program's own `since` cannot be served
        $member->_in_force($recovered);
        $member->{ready}->(undef) if $member->{ready};
    }
    return;
}

sub _end_topic ( $self, $topic, $error ) {
    $self->_forget($topic);
    my @members = splice @{ $topic->{members} };
    for my $member (@members) {
        if ( my $ready = $member->{ready} ) {
            $ready->( $error // Net::RealizeHit::Error->of( 'Closed', text => 'the client is closed' ) );
            $member->_finish(undef);
            next;
        }
        $member->_finish($error);
    }
    return;
}

sub _forget ( $self, $topic ) {
    delete $self->{topics}{ $topic->{text} } if $self->_has($topic);
    delete $self->{pending}{ $topic->{request} } if defined $topic->{request};
    return if !defined $topic->{id};
    my $known = $self->{by_id}{ $topic->{id} };
    delete $self->{by_id}{ $topic->{id} } if $known && $known == $topic;
    return;
}

# Takes a subscription away, and says whether answered will be called.
sub leave ( $self, $subscription, $answered = undef ) {
    my $topic = $subscription->{topic};
    @{ $topic->{members} } = grep { $_ != $subscription } @{ $topic->{members} };
    return 0 if @{ $topic->{members} } || !$self->_has($topic);
    $self->_forget($topic);
    return 0 if !$self->{connection};
    $self->act( { act => 'unsub', pat => $topic->{pattern} }, $answered );
    return 1;
}

# What comes from the server.

sub take ( $self, $text ) {
    if ( $text =~ /\A\{/ ) {
        my $object = eval { Net::RealizeHit::JSON::decode($text) };
        $self->_take_object($object) if ref $object eq 'HASH';
        return;
    }
    my ( $head, $payload ) = split /[?]/, $text, 2;
    return if !defined $payload;
    my ( $id, $label ) = split /@/, $head, 2;
    my $topic = $self->{by_id}{ $id // q{} } // return;
    my ( $channel, $offset, $malformed );
    ( $channel, $offset, $malformed ) = Net::RealizeHit::Label::fields_of($label) if defined $label;
    $malformed //= 'the field c is missing' if $topic->{wildcard} && !defined $channel;
    if ( defined $malformed ) {
        return if $topic->{told}++;
        my $error = Net::RealizeHit::Error->of( 'Rejected',
            text => "a message of $topic->{text} has a malformed label and was left out, as later ones will be: $malformed" );
        $_->_tell( on_error => $error ) for @{ $topic->{members} };
        return;
    }
    my $message = Net::RealizeHit::Message->new(
        {   text     => $payload,
            channel  => $channel // $topic->{text},
            position => defined $offset ? _next_position( $topic, $offset ) : undef,
        }
    );
    $_->_put($message) for @{ $topic->{members} };
    return;
}

# The position of a message by the offset of its label; undef if nobody asked for positions, or the epoch is not known.
sub _next_position ( $topic, $offset ) {
    return undef if !defined $offset || !$topic->{offsets};    ## no critic (ProhibitExplicitReturnUndef)
    if ( $offset =~ /[.]/ ) { $topic->{epoch} = _epoch_of($offset) }
    elsif ( defined $topic->{epoch} ) { $offset = "$topic->{epoch}.$offset" }
    else { return undef }    ## no critic (ProhibitExplicitReturnUndef)
    return $topic->{position} = $offset;
}

sub _take_object ( $self, $object ) {
    my $id = $object->{id};
    if ( defined $id && !ref $id ) {
        my $answered = delete $self->{pending}{$id};
        $answered->($object) if $answered;
        return;
    }
    my $event = $object->{evt};
    return if !defined $event || ref $event;
    my $seconds = $object->{seconds};
    $seconds = 0 if !defined $seconds || ref $seconds || !looks_like_number($seconds) || !( $seconds >= 0 );
    $seconds = min( $seconds, MAX_SECONDS );
    my @ids    = ref $object->{ids} eq 'ARRAY' ? grep { defined && !ref } @{ $object->{ids} } : ();
    my @topics = grep {defined} @{ $self->{by_id} }{@ids};
    if    ( $event eq 'expiring' )     { $self->{on_expiring}->($seconds) }
    elsif ( $event eq 'note' )         { $self->{on_note}->( $object->{note} ) }
    elsif ( $event eq 'gap' )          { $self->_told_gap( $_, $seconds, $object->{at} ) for @topics }
    elsif ( $event eq 'unsubscribed' ) {
        my $reason = $object->{reason};
        $reason = q{} if !defined $reason || ref $reason;
        my $error = Net::RealizeHit::Error->refusal( $object->{code}, undef, "the server ended the subscription: $reason" );
        $self->_end_topic( $_, $error ) for @topics;
    }
    return;
}

sub _told_gap ( $self, $topic, $seconds, $positions ) {
    my $at = ref $positions eq 'HASH' ? $positions->{ $topic->{id} } : undef;
    if ( _is_position($at) && $topic->{offsets} ) {
        @{$topic}{qw(position epoch)} = ( $at, _epoch_of($at) );
    }
    $_->_gap($seconds) for @{ $topic->{members} };
    return;
}

# The error that a reply tells.
sub refusal ($reply) {
    my $text = ref $reply->{err} ? 'the server refused the action' : $reply->{err};
    return Net::RealizeHit::Error->refusal( $reply->{code}, undef, $text );
}

sub _is_position ($value) { return defined $value && !ref $value && $value =~ /[.]/ }

sub _epoch_of ($position) { return defined $position ? $position =~ s/[.].*//sr : undef }

# The error of an action that was not answered.
sub late ($action) { return Net::RealizeHit::Error->of( 'Timeout', text => "there was no answer to $action in time" ) }

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Session - what a client says to a server, and what it hears

=head1 DESCRIPTION

Internal to L<Net::RealizeHit::Client>. It knows what is subscribed to, sends actions, and takes answers, events and payloads
apart. It outlives connections.

=head1 METHODS

=head2 new

Takes the schedule, the response time-out, the back-off of refused subscriptions, and the function for expiring tokens.

=head2 attach

A connection is there.

=head2 detach

It is lost.

=head2 act

Sends an action.

=head2 take

Takes a message of the server.

=head2 topic

What is subscribed to by this canonical text.

=head2 add_topic

Subscribes to a pattern.

=head2 join_topic

Adds a subscription of the program.

=head2 leave

Takes it away.

=head2 unsubscribe

Takes it away, and waits for the answer.

=head2 end_all

Ends everything.

=head2 refusal

A function: the error that a reply tells.

=head2 late

A function: the error of an action that was not answered.

=cut
