package Net::RealizeHit;

use v5.36;

use Net::RealizeHit::API    ();
use Net::RealizeHit::Client ();

our $VERSION = '0.1.0';

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit - publish to a realizehit server, and subscribe to it

=head1 SYNOPSIS

    use v5.36;
    use Net::RealizeHit;

    my $client = Net::RealizeHit::Client->new('ws://127.0.0.1:8080/ws');
    my $news   = $client->subscribe( { kind => 'news' } );

    my $api = Net::RealizeHit::API->new('http://127.0.0.1:8080/');
    $api->publish( { kind => 'news' }, 'hello' );

    say $news->next->payload;    # hello
    $client->close;

=head1 DESCRIPTION

realizehit passes messages from publishers to WebSocket clients. This distribution has

=over

=item L<Net::RealizeHit::API>

publishes over HTTP;

=item L<Net::RealizeHit::Client>

subscribes over a WebSocket, connects again by itself, and tells what may have been missed;

=item L<Net::RealizeHit::Subscription>, L<Net::RealizeHit::Message>

are what it gives;

=item L<Net::RealizeHit::Pattern>

computes canonical texts and ids of patterns;

=item L<Net::RealizeHit::Error>

is the base class of all errors.

=back

=head1 LICENSE

MIT; see the file F<LICENSE>.

=cut
